//! Formats of other products: what their own code made opens, and what is written in them their own code opens.

mod opening;
mod vectors;
mod writing;
