//! The client of the API, shared informers, work queue and events.
