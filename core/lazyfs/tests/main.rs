//! Layers that arrive while they are read.

mod fixture;

mod background;
mod faults;
mod reading;
