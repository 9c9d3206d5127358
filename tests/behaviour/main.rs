//! What must hold of a mesh, seen from outside: one file an area, one test a promise.
#![allow(clippy::unwrap_used, reason = "what helps a test is part of it")]

mod access;
mod adaptive;
mod balancing;
mod breaker;
mod documents;
mod egress;
mod examples;
mod explain;
mod faults;
mod filters;
mod gateway;
mod gateway_api;
mod grpc;
mod hedging;
mod hostile_input;
mod identity;
mod jwt;
mod lifecycle;
mod metrics;
mod persistence;
mod policy_push;
mod protocols;
mod rate_limits;
mod rate_limits_mesh;
mod redirect;
mod retries;
mod rotation;
mod routing;
mod tcp;
mod tracing;
mod unread;
mod usage;
