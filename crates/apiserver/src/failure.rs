//! The one error type of the request path: a boxed [`Status`], and how a store's errors become one.

use skiff_object::{Reason, Status};
use skiff_store::StoreError;

/// A failure on its way to becoming the answer.
#[derive(Debug, Clone)]
pub struct Failure(pub Box<Status>);

/// What almost everything in this crate returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } | StoreError::Lagged => expired(),
            StoreError::Future { asked, current } => too_large_revision(asked, current),
            StoreError::Transform(why) => Status::internal(why).into(),
            StoreError::Unavailable(why) => Status::internal(format_args!("storage: {why}")).into(),
        }
    }
}

/// 410, as a watch or a list at a forgotten revision gets it.
pub fn expired() -> Failure {
    Status::expired("The resourceVersion for the provided watch is too old.").into()
}

/// 504 for a revision that this server has not seen yet.
pub fn too_large_revision(asked: u64, current: u64) -> Failure {
    let mut status = Status::timeout(format_args!("Too large resource version: {asked}, current: {current}"));
    let details = status.details.get_or_insert_default();
    details.retry_after_seconds = 1;
    details.causes.push(skiff_object::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status.into()
}

/// An error without a reason, as upstream gives where plain Go errors reach the client.
pub fn plain(code: u16, message: impl Into<String>) -> Failure {
    Status::failure(code, Reason::Unknown, message).into()
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}
