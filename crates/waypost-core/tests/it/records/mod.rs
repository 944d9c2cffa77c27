//! Records: what Go writes, reads and refuses to see, and what we refuse to register.

mod arbitrary;
mod checks;
mod golden;
mod memory;
mod metadata;
mod methods;
mod names;
mod properties;
mod shapes;
