//! Who of several backends gets the next request, by their weights. The turns are smooth and exact: of every hundred
//! requests at weights of 10, 10 and 80 they get 10, 10 and 80, and none gets its share in one piece.

use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;

use super::annotations::Protocol;
use super::filters::Filters;
use super::upstream::Upstream;

/// Who answers a share of the requests.
#[derive(Debug)]
pub struct Backend {
    /// Its share, in proportion to the others'.
    pub weight: u32,
    /// Who it is.
    pub target: Target,
    /// What is done to its requests and answers, beside what is done to all of the route.
    pub filters: Filters,
}

/// Who answers.
#[derive(Debug)]
pub enum Target {
    /// Endpoints.
    Upstream(Arc<Upstream>),
    /// Nobody: what was named is not there or not allowed.
    Refused(StatusCode),
}

/// Backends that get requests in turn.
#[derive(Debug, Default)]
pub struct Choice {
    backends: Vec<Backend>,
    /// How far each is behind its share; the same for all choices that follow each other, so that no turn is lost.
    behind: Arc<Mutex<Vec<i64>>>,
}

impl Choice {
    /// All requests go to these endpoints.
    pub fn one(upstream: Arc<Upstream>) -> Self {
        Self::of(vec![Backend { weight: 1, target: Target::Upstream(upstream), filters: Filters::default() }])
    }

    /// Requests go to these by their weights.
    pub fn of(backends: Vec<Backend>) -> Self {
        let behind = Arc::new(Mutex::new(vec![0; backends.len()]));
        Self { backends, behind }
    }

    /// Goes on in the turn of what was here before, if that was the same choice.
    pub fn following(mut self, before: Option<&Self>) -> Self {
        let weights = |choice: &Self| choice.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>();
        if let Some(before) = before.filter(|before| weights(before) == weights(&self)) {
            self.behind = before.behind.clone();
        }
        self
    }

    /// Whose turn it is: the number of the backend; nothing if there is none.
    pub fn turn(&self) -> Option<usize> {
        if let [only] = self.backends.as_slice() {
            return (only.weight > 0).then_some(0);
        }
        take_turn(&mut self.behind.lock(), |at| self.backends[at].weight.into())
    }

    /// Whether nothing is done to requests and answers of any of them, and all of them are asked by HTTP/1.1.
    pub fn is_plain(&self) -> bool {
        self.backends.iter().all(|backend| {
            let speaks_http1 = match &backend.target {
                Target::Upstream(upstream) => upstream.protocol == Protocol::Http1,
                Target::Refused(_) => true,
            };
            speaks_http1 && backend.filters.is_empty()
        })
    }

    /// A backend by its number.
    pub fn backend(&self, at: usize) -> Option<&Backend> {
        self.backends.get(at)
    }
}

/// Whose turn it is: each falls behind by its weight, whoever is most behind gets the turn and is ahead by all weights.
pub fn take_turn(behind: &mut [i64], weight: impl Fn(usize) -> i64) -> Option<usize> {
    let mut total = 0;
    let mut first: Option<usize> = None;
    for at in 0..behind.len() {
        total += weight(at);
        behind[at] += weight(at);
        if weight(at) > 0 && first.is_none_or(|first| behind[at] > behind[first]) {
            first = Some(at);
        }
    }
    behind[first?] -= total;
    first
}
