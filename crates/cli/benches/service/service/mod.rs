//! What runs a service for the tests.

#[path = "../../../tests/commands/service/http.rs"]
pub(crate) mod http;
#[path = "../../../tests/commands/service/published.rs"]
pub(crate) mod published;
#[path = "../../../tests/commands/service/running.rs"]
pub(crate) mod running;
