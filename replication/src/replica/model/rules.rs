//! Each rule is needed: without it, seeds fail.
