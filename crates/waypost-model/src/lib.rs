//! Loom models of code whose correctness rests on the memory model. A model includes the very file
//! that users run, with loom's primitives instead of the standard library's.

#[cfg(test)]
mod pool;
