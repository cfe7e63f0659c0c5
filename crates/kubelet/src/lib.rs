//! The node agent: the Pod state machine, probes, volumes, status and the kubelet API.
