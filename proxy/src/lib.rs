//! Outrigger's data plane.

pub mod backoff;
pub mod budget;
pub mod failure;
pub mod filter;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod balancer;
pub mod bulkhead;
pub mod deadline;
pub mod load;
pub mod breaker;
pub mod cluster;
pub mod outlier;
pub mod strict;
pub mod args;
pub mod config;
pub mod exchange;
pub mod metrics;
pub mod trace;
pub mod span;
pub mod access_log;
pub mod health;
