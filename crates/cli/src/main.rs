#[cfg(all(test, feature = "sqlite"))]
mod demo;

fn main() {}
