//! What a call fails with: gRPC's codes and a message.

/// The result of a call.
pub type GrpcResult<T> = Result<T, GrpcError>;

/// The codes of gRPC, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Canceled = 1,
    /// Something that has no code of its own.
    Unknown = 2,
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3,
    /// Too late.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// No room left.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// Another call came between.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// Not offered by this service.
    Unimplemented = 12,
    /// The service broke.
    Internal = 13,
    /// The service cannot be reached now.
    Unavailable = 14,
    /// Data is gone.
    DataLoss = 15,
    /// Who is calling?
    Unauthenticated = 16,
}

impl Code {
    /// The code with this number; numbers that gRPC does not know are `Unknown`.
    pub fn from_number(number: i32) -> Self {
        const ALL: [Code; 16] = [
            Code::Canceled,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
            Code::Unauthenticated,
        ];
        usize::try_from(number - 1).ok().and_then(|index| ALL.get(index).copied()).unwrap_or(Code::Unknown)
    }
}

/// A failed call. It prints as gRPC's Go client prints it, since users meet that text in events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct GrpcError {
    /// What kind of failure it is.
    pub code: Code,
    /// What failed, on which object, and why.
    pub message: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $code:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self { code: Code::$code, message: message.into() }
        })*
    };
}

impl GrpcError {
    constructors! {
        /// There is no such thing.
        not_found = NotFound;
        /// The request makes no sense.
        invalid_argument = InvalidArgument;
        /// The object is not in a state for this call.
        failed_precondition = FailedPrecondition;
        /// The service broke, or the kernel refused.
        internal = Internal;
        /// The service, or what it needs, cannot be reached.
        unavailable = Unavailable;
        /// There is one already.
        already_exists = AlreadyExists;
        /// Time ran out.
        deadline_exceeded = DeadlineExceeded;
        /// Not offered by this service.
        unimplemented = Unimplemented;
        /// Not allowed.
        permission_denied = PermissionDenied;
        /// Credentials are missing or wrong.
        unauthenticated = Unauthenticated;
        /// No room left.
        resource_exhausted = ResourceExhausted;
        /// The caller gave up.
        canceled = Canceled;
        /// Something that has no code of its own.
        unknown = Unknown;
    }

    /// Whether the object of the call does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers() {
        assert_eq!(Code::from_number(5), Code::NotFound);
        assert_eq!(Code::from_number(Code::Unauthenticated as i32), Code::Unauthenticated);
        assert_eq!(Code::from_number(99), Code::Unknown);
        assert_eq!(Code::from_number(0), Code::Unknown);
    }

    #[test]
    fn an_error_prints_as_gos_client_prints_it() {
        let error = GrpcError::not_found("no container \"x\"");
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no container \"x\"");
    }
}
