//! One pure module per controller and one runner.
