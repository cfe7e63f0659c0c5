//! Watches on etcd. Each follows everything below the prefix and shows what lies in its range; where its stream breaks
//! it goes on at another endpoint from the revision after the last that it has shown, so that nothing is missing and
//! nothing comes twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::grpc::{Answers, CallError};
use super::messages as pb;
use super::{Inner, PROGRESS_KEY, revision_of};
use crate::{KeyRange, KeyValue, Revision, StoreError, WatchEvent, WatchItem, WatchStream};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// How long to wait before a broken watch is begun again: first, and at most.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How long a watch may take to say that it is there.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// A watch under way.
struct Watch {
    inner: Arc<Inner>,
    range: KeyRange,
    /// Everything up to here has been taken.
    reached: Revision,
    answers: Option<Answers<pb::WatchResponse>>,
    /// Parts of a response that is not whole yet.
    fragments: Vec<pb::Event>,
    items: VecDeque<WatchItem>,
    delay: Duration,
    ended: bool,
}

/// Opens a watch of the changes after `after`.
pub(super) async fn open(inner: Arc<Inner>, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
    // What can be watched after a revision can be read at it, and a read is refused at once.
    inner.read(inner.own_key(PROGRESS_KEY), Bytes::new(), Some(after.max(1)), 1).await?;
    let mut watch = Watch {
        inner,
        range,
        reached: after,
        answers: None,
        fragments: Vec::new(),
        items: VecDeque::new(),
        delay: FIRST_DELAY,
        ended: false,
    };
    watch.answers = Some(watch.begin_patiently().await?);
    Ok(Box::pin(futures_util::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) })))
}

/// The oldest revision that can be read: etcd tells it to who asks for a watch from the very beginning, and is refused.
pub(super) async fn compacted(inner: &Inner) -> Result<Revision, CallError> {
    let mut answers = begin(inner, 1).await?;
    loop {
        let answer = next_within(&mut answers).await?;
        if answer.canceled || !answer.created {
            return Ok(answer.compact_revision as Revision);
        }
    }
}

async fn begin(inner: &Inner, start: Revision) -> Result<Answers<pb::WatchResponse>, CallError> {
    let (key, range_end) = inner.everything();
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: start as i64,
        progress_notify: true,
        prev_kv: true,
        fragment: true,
    };
    let question = pb::WatchRequest { create: Some(create) };
    let begun = inner.channel.streaming(WATCH, &question);
    // etcd sends nothing, not even headers, until the watch is there.
    let begun = tokio::time::timeout(CREATE_TIMEOUT, begun).await;
    begun.unwrap_or_else(|_| Err(CallError::Broken("a watch does not begin".into())))
}

async fn next_within(answers: &mut Answers<pb::WatchResponse>) -> Result<pb::WatchResponse, CallError> {
    let next = tokio::time::timeout(CREATE_TIMEOUT, answers.next()).await;
    let next = next.unwrap_or_else(|_| Err(CallError::Broken("a watch does not begin".into())))?;
    next.ok_or_else(|| CallError::Broken("etcd ended a watch at its beginning".into()))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(Ok(item));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fill().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// Takes the next answer; where the stream has broken, begins a new one instead.
    async fn fill(&mut self) -> Result<(), StoreError> {
        let Some(answers) = &mut self.answers else {
            tokio::time::sleep(self.delay).await;
            self.delay = (self.delay * 2).min(LONGEST_DELAY);
            self.answers = self.begin_again().await?;
            return Ok(());
        };
        match answers.next().await {
            Ok(Some(answer)) => {
                self.delay = FIRST_DELAY;
                self.take(answer)
            }
            Ok(None) => {
                self.stumble("etcd ended it");
                Ok(())
            }
            Err(error) => {
                self.stumble(&error.to_string());
                Ok(())
            }
        }
    }

    fn stumble(&mut self, why: &str) {
        tracing::info!(why, after = self.reached, "a watch on etcd goes on at the next endpoint");
        self.answers = None;
        self.fragments.clear();
    }

    /// Begins the first stream, with patience.
    async fn begin_patiently(&mut self) -> Result<Answers<pb::WatchResponse>, StoreError> {
        let deadline = self.inner.clock.monotonic() + super::PATIENCE;
        loop {
            if let Some(answers) = self.begin_again().await? {
                return Ok(answers);
            }
            if self.inner.clock.monotonic() > deadline {
                return Err(StoreError::Unavailable("watching: no endpoint begins a watch".into()));
            }
            tokio::time::sleep(super::RETRY_DELAY).await;
        }
    }

    /// Begins a stream after what was reached; `None` where that should be tried again.
    async fn begin_again(&mut self) -> Result<Option<Answers<pb::WatchResponse>>, StoreError> {
        let begun = async {
            let mut answers = begin(&self.inner, self.reached + 1).await?;
            let first = next_within(&mut answers).await?;
            Ok::<_, CallError>((answers, first))
        };
        match begun.await {
            // That the start is compacted is told by a later answer.
            Ok((answers, first)) if first.created && !first.canceled => Ok(Some(answers)),
            Ok((_, first)) => {
                self.take(first)?;
                Ok(None)
            }
            Err(error) => {
                tracing::debug!(%error, "a watch on etcd could not begin");
                Ok(None)
            }
        }
    }

    fn take(&mut self, answer: pb::WatchResponse) -> Result<(), StoreError> {
        if answer.canceled {
            if answer.compact_revision > 0 {
                return Err(StoreError::Compacted { oldest: answer.compact_revision as Revision });
            }
            self.stumble(&answer.cancel_reason);
            return Ok(());
        }
        if answer.created {
            return Ok(());
        }
        if answer.events.is_empty() && self.fragments.is_empty() && !answer.fragment {
            self.progress(revision_of(&answer.header));
            return Ok(());
        }
        self.fragments.extend(answer.events);
        if !answer.fragment {
            let events = std::mem::take(&mut self.fragments);
            self.show(events);
        }
        Ok(())
    }

    fn progress(&mut self, revision: Revision) {
        if revision > self.reached {
            self.reached = revision;
            self.items.push_back(WatchItem::Progress(revision));
        }
    }

    /// Turns whole revisions of events into items.
    fn show(&mut self, events: Vec<pb::Event>) {
        let before = self.reached;
        let mut shown = before;
        for event in events {
            let Some(pair) = &event.kv else { continue };
            let revision = pair.mod_revision as Revision;
            // A member that caught up by a snapshot may repeat what was shown.
            if revision <= before {
                continue;
            }
            self.reached = self.reached.max(revision);
            let Some(event) = self.translate(&event, pair, revision) else { continue };
            shown = revision;
            match self.items.back_mut() {
                Some(WatchItem::Events(events)) if events[0].revision == revision => events.push(event),
                _ => self.items.push_back(WatchItem::Events(vec![event])),
            }
        }
        if self.reached > shown {
            self.items.push_back(WatchItem::Progress(self.reached));
        }
    }

    fn translate(&self, event: &pb::Event, pair: &pb::KeyValue, revision: Revision) -> Option<WatchEvent> {
        let key = self.inner.callers_key(&pair.key).filter(|key| self.range.contains(key))?;
        let value = (event.kind != pb::EVENT_DELETE).then(|| KeyValue {
            key: key.clone(),
            value: Bytes::copy_from_slice(&pair.value),
            create_revision: pair.create_revision as Revision,
            mod_revision: revision,
        });
        let previous = event.prev_kv.as_ref().and_then(|pair| self.inner.pair(pair));
        Some(WatchEvent { revision, key, value, previous })
    }
}
