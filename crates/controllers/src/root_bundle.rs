//! The certificates that pods verify the API server with, which are exchanged when the cluster gets another authority.

use std::collections::BTreeMap;

use parking_lot::{Mutex, RwLock};

type Wake = Box<dyn Fn() + Send + Sync>;

/// Certificates in PEM, and who has to know when they change.
#[derive(Default)]
pub struct RootBundle {
    pem: RwLock<String>,
    /// By name: a controller that is started again takes the place of the former one.
    woken: Mutex<BTreeMap<&'static str, Wake>>,
}

impl RootBundle {
    /// These certificates.
    pub fn new(pem: impl Into<String>) -> Self {
        Self { pem: RwLock::new(pem.into()), woken: Mutex::default() }
    }

    /// The certificates.
    pub fn get(&self) -> String {
        self.pem.read().clone()
    }

    /// Exchanges them.
    pub fn set(&self, pem: &str) {
        pem.clone_into(&mut self.pem.write());
        for wake in self.woken.lock().values() {
            wake();
        }
    }

    /// Does something whenever they are exchanged.
    pub(crate) fn on_change(&self, name: &'static str, wake: impl Fn() + Send + Sync + 'static) {
        self.woken.lock().insert(name, Box::new(wake));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn whoever_was_started_last_is_woken() {
        let (bundle, woken) = (RootBundle::new("a"), Arc::new(AtomicUsize::new(0)));
        for weight in [1, 10] {
            let woken = woken.clone();
            bundle.on_change("publisher", move || {
                woken.fetch_add(weight, Ordering::Relaxed);
            });
        }
        bundle.set("b");
        assert_eq!((bundle.get().as_str(), woken.load(Ordering::Relaxed)), ("b", 10));
    }
}
