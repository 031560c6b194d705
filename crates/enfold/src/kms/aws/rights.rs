//! What the caller may do with a key, asked with `DryRun`: AWS KMS checks everything and does nothing.
//!
//! That is always an error: `DryRunOperationException` where the call would have succeeded. Each costs what a request costs
//! and stands in CloudTrail. Not every operation has it; those that have none are not tried, because trying is doing. A
//! server that imitates AWS may not know `DryRun` and do what it is asked, so a grant is asked for only after the server
//! has shown that it knows it.

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, GrantOperation};

use super::{AwsKms, answer, pairs};
use crate::error::{Code, Result, Retry};
use crate::kms::context::EncryptionContext;
use crate::kms::failure::Operation;
use crate::kms::service::{Held, NeededBy, Permission};

const NOT_TOLD: [(&str, NeededBy); 3] = [
    ("kms:ScheduleKeyDeletion", NeededBy::Operators),
    ("kms:DisableKey", NeededBy::Operators),
    ("kms:PutKeyPolicy", NeededBy::Nobody),
];

/// What came of a call that was to do nothing.
enum Dry {
    WouldSucceed,
    Denied,
    /// The server knows no `DryRun`, and did it.
    Done,
    /// Refused for another reason, such as the key's state.
    Refused,
}

impl Dry {
    fn held(&self) -> Held {
        match self {
            // A server that did it has shown that it may be done.
            Self::WouldSucceed | Self::Done => Held::Yes,
            Self::Denied => Held::No,
            Self::Refused => Held::NotTold,
        }
    }
}

impl AwsKms {
    pub(super) async fn rights(&self, context: &EncryptionContext) -> Result<Vec<Permission>> {
        let (key, pairs) = (self.key.key(), pairs(context));
        let encrypt =
            self.clients.current().await.encrypt().key_id(key).set_encryption_context(pairs.clone()).dry_run(true);
        let encrypt = self.dry(encrypt.plaintext(Blob::new([0])).send().await)?;
        let generate =
            self.clients.current().await.generate_data_key().key_id(key).set_encryption_context(pairs).dry_run(true);
        let generate = self.dry(generate.key_spec(DataKeySpec::Aes256).send().await)?;
        let knows_dry_run = [&encrypt, &generate].iter().any(|dry| matches!(dry, Dry::WouldSucceed));
        let grant = if knows_dry_run { self.may_grant().await? } else { Held::NotTold };
        let told = [
            ("kms:Encrypt", encrypt.held(), NeededBy::Applications),
            ("kms:GenerateDataKey", generate.held(), NeededBy::Applications),
            ("kms:CreateGrant", grant, NeededBy::Nobody),
        ];
        let not_told = NOT_TOLD.into_iter().map(|(name, needed_by)| (name, Held::NotTold, needed_by));
        let permission = |(name, held, needed_by): (&str, _, _)| Permission { name: name.to_owned(), held, needed_by };
        Ok(told.into_iter().chain(not_told).map(permission).collect())
    }

    /// Whoever may make grants can give the use of the key to anybody.
    async fn may_grant(&self) -> Result<Held> {
        let about = match self.metadata(Operation::Describe).await {
            Err(error) if error.code().retry() == Retry::Never => return Ok(Held::NotTold),
            other => other?,
        };
        // To the account that has the key already.
        let Some(account) = about.arn().and_then(account) else { return Ok(Held::NotTold) };
        let grant =
            self.clients.current().await.create_grant().key_id(about.key_id()).grantee_principal(account).dry_run(true);
        Ok(self.dry(grant.operations(GrantOperation::DescribeKey).send().await)?.held())
    }

    /// An error where nothing can be said because the service is away.
    fn dry<T, E>(&self, answer: std::result::Result<T, SdkError<E, HttpResponse>>) -> Result<Dry>
    where
        E: ProvideErrorMetadata + RequestId + std::error::Error + Send + Sync + 'static,
    {
        let Err(error) = answer else { return Ok(Dry::Done) };
        if error.code() == Some("DryRunOperationException") {
            return Ok(Dry::WouldSucceed);
        }
        let refused = answer::refused(Operation::Describe, &self.uri, &error);
        match refused.code() {
            Code::KmsAccessDenied => Ok(Dry::Denied),
            code if code.retry() == Retry::Later => Err(refused),
            _ => Ok(Dry::Refused),
        }
    }
}

/// `arn:aws:iam::111122223333:root` of `arn:aws:kms:eu-central-1:111122223333:key/…`.
fn account(arn: &str) -> Option<String> {
    let mut parts = arn.split(':');
    let (partition, account) = (parts.nth(1)?, parts.nth(2)?);
    (!account.is_empty()).then(|| format!("arn:{partition}:iam::{account}:root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_that_of_the_key() {
        let of = |arn| account(arn).unwrap_or_default();
        assert_eq!(of("arn:aws:kms:eu-central-1:111122223333:key/k"), "arn:aws:iam::111122223333:root");
        assert_eq!(of("arn:aws-cn:kms:cn-north-1:111122223333:key/k"), "arn:aws-cn:iam::111122223333:root");
        assert_eq!((of("k"), of("arn:aws:kms:eu-central-1::key/k")), (String::new(), String::new()));
    }
}
