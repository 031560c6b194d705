//! Connections to databases, shared by the catalog and the jobs. What is done over them belongs to those.
pub mod migrations;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// Runs blocking work off the async threads where a tokio runtime is current, and in place where none is.
#[cfg(feature = "sqlite")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> crate::Result<T> + Send + 'static) -> crate::Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.unwrap_or_else(|_| {
            Err(crate::Error::new(
                crate::Code::Interrupted,
                "a database call was given up because the program is ending",
            ))
        }),
        Err(_) => work(),
    }
}
