//! `globallock top`, on terminals.

mod given_back;
mod leaving;
mod refused;
mod seen;
mod window;
