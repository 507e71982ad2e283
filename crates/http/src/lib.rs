//! Bytes in, requests out: HTTP/1.1 as RFC 9110 and 9112 have it, on event
//! loops, with a limit on everything. It knows no agents.
//!
//! - [`parse`], `chunked`: which of a client's bytes are a request
//! - `connection`: bytes in and answers out, without a socket
//! - `order`: which connection gives way when there is no room; `patience`: how long the server
//!   waits for clients
//! - `edge`: the event loop; `lanes`: answers that may have to be waited for
//! - [`server`]: all of it, as a program sees it; [`service`]: what a program gives it
//! - [`listener`]: sockets that listen; [`websocket`]: the opening of a stream

#![forbid(unsafe_code)]

mod chunked;
mod common;
mod connection;
mod edge;
mod lanes;
pub mod listener;
mod order;
pub mod parse;
mod patience;
pub mod request;
pub mod response;
pub mod server;
pub mod service;
pub mod websocket;
