pub(crate) mod shop;
