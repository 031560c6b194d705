//! A data key, what it is bound to, and whether a root key gives it back: for the tests of providers.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use enfold::kms::{EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, WrappedKey};

pub(crate) fn context() -> EncryptionContext {
    EncryptionContext::new().with("enfold:ring", "orders").unwrap()
}

pub(crate) fn material() -> KeyMaterial {
    KeyMaterial::from_bytes(&mut [7; 32])
}

pub(crate) async fn opens(kms: &dyn KeyManagementService, wrapped: &WrappedKey) {
    assert_eq!(kms.unwrap_one(wrapped, &context()).await.unwrap_or_else(|e| panic!("{e}")).expose(), &[7; 32]);
}

pub(crate) async fn round_trip(kms: &dyn KeyManagementService) {
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    opens(kms, &wrapped).await;
}
