//! Tests of records: compatibility with the encoding and decoding of Go, and validation before
//! registration.

mod arbitrary;
mod checks;
mod golden;
mod memory;
mod metadata;
mod methods;
mod names;
mod properties;
mod shapes;
