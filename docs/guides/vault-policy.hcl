# What an application needs. `update` and never `create`: with `create` the server makes a key that is missing.
path "transit/keys/orders" {
  capabilities = ["read"]
}
path "transit/encrypt/orders" {
  capabilities = ["update"]
}
path "transit/decrypt/orders" {
  capabilities = ["update"]
}
path "transit/datakey/plaintext/orders" {
  capabilities = ["update"]
}
path "transit/rewrap/orders" {
  capabilities = ["update"]
}
