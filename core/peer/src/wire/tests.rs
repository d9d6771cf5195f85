//! A server and a client over loopback, and what others do to either.

mod fixture;
mod honest;
mod hostile_client;
mod hostile_server;
