//! A module that somebody else in the process ends and begins anew. It takes every session of every token with it, so it
//! has a process of its own.
#![cfg(feature = "pkcs11")]

use enfold::kms::{EncryptionContext, KeyManagementServiceExt, KeyMaterial, Pkcs11Kms, Pkcs11Options};
use enfold_testkit::pkcs11::Token;

#[tokio::test]
async fn a_module_that_was_restarted_is_signed_in_to_again() {
    let context = EncryptionContext::new().with("enfold:ring", "orders").unwrap();
    for token in [Token::softhsm(), Token::kryoptic()] {
        token.key("root");
        let kms = Pkcs11Kms::open(&token.uri("root").parse().unwrap(), &Pkcs11Options::default()).unwrap();
        let key = KeyMaterial::generate().unwrap();
        let wrapped = kms.wrap_one(&key, &context).await.unwrap();
        for _ in 0..3 {
            token.restart_module();
            assert_eq!(kms.unwrap_one(&wrapped, &context).await.ok().unwrap().expose(), key.expose());
        }
        token.end_module();
        assert_eq!(kms.unwrap_one(&wrapped, &context).await.ok().unwrap().expose(), key.expose(), "it is begun anew");
    }
}
