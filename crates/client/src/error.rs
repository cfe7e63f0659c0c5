//! What can go wrong with a request.

use skiff_object::Status;

use crate::TransportError;

/// Why a request failed.
#[derive(Debug, thiserror::Error, Clone)]
pub enum Error {
    /// The server refused, and says why.
    #[error("{0}")]
    Api(Box<Status>),
    /// The server was not reached, or the answer broke off.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer is not what was asked for.
    #[error("decode {what}: {reason}")]
    Decode {
        /// What was to be decoded.
        what: String,
        /// Why it cannot be.
        reason: String,
    },
}

impl Error {
    pub(crate) fn decode(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Decode { what: what.into(), reason: reason.to_string() }
    }

    /// The server's refusal, if it is one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    /// Whether somebody else changed the object first.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    /// Whether the object is there already.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// Whether the revision asked for is gone, so that a list must be made anew.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|status| status.code == 410)
    }
}
