//! The Container Runtime Interface, v1: its messages and the two services as traits.
//! The kubelet knows these traits and never which runtime is behind them.
