//! `enfold serve`, over HTTP.

mod access;
mod attack;
mod audit;
mod console;
mod coverage;
mod emergency;
mod forms;
mod fuzzed;
mod http;
mod jobs;
mod limits;
mod metrics;
mod once;
mod operators;
mod postgres;
mod published;
mod refusals;
mod rules;
mod running;
mod start;
mod streams;
mod tenants;
mod tls;
mod tokens;
mod traces;
mod values;
mod watching;

pub(crate) use self::running::Service;
use self::running::{DECRYPT, ENCRYPT, organisations, protected_organisations, service_key};
