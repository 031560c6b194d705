//! What a running job gives way to, each limit passed for real on a server of the test's own: the sweep waits and says
//! why, changes nothing meanwhile, and goes on when it is over.
#![cfg(feature = "postgres")]

#[path = "../postgres/codec.rs"]
mod codec;
mod limits;
mod scene;
