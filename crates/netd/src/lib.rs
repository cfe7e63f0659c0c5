//! Pod network, service rules and network policy: planned purely, applied by small appliers.
