//! SPDY/3.1 and the WebSocket channel protocols for exec, attach and port-forward.
