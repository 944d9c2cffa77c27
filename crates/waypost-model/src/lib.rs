//! Models, checked with loom, of code whose correctness rests on the memory model. A model includes the very file that users run, with loom's
//! primitives in the place of the standard library's.

#[cfg(test)]
mod pool;
