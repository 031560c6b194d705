# Values of Rails' Active Record Encryption and of Lockbox, from checkouts of their repositories. Run by make.py.
rails, lockbox = ENV.fetch("RAILS"), ENV.fetch("LOCKBOX")
$LOAD_PATH.unshift(*%w[activerecord activesupport activemodel].map { |part| "#{rails}/#{part}/lib" }, "#{lockbox}/lib")
require "json"
require "zlib"
require "logger"
require "active_support"
require "active_support/core_ext"
module ActiveRecord; end
require "active_record/encryption"
require "active_record/gem_version"
require "lockbox"

TEXTS = JSON.parse($stdin.read)
SALT = "testing key derivation salt"
PRIMARY, DETERMINISTIC = "test master key", "test deterministic key"

def text(stored, plaintext) = { form: "text", stored: stored, plaintext: plaintext }

def tell(name, made_by, reader, keys, wrong_keys, values)
  puts JSON.generate(name:, made_by:, reader:, keys:, wrong_keys:, values:)
end

made_by = "Rails #{ActiveRecord.gem_version} (a checkout of its repository)"
encryption = ActiveRecord::Encryption
encryption.configure primary_key: PRIMARY, deterministic_key: DETERMINISTIC, key_derivation_salt: SALT
{ "sha1" => OpenSSL::Digest::SHA1, "sha256" => OpenSSL::Digest::SHA256 }.each do |word, digest|
  generator = encryption::KeyGenerator.new(hash_digest_class: digest)
  provider = ->(*keys) { encryption::DerivedSecretKeyProvider.new(keys, key_generator: generator) }
  encryptor = encryption::Encryptor.new
  values = TEXTS.map { |t| text(encryptor.encrypt(t, key_provider: provider.(PRIMARY)), t) }
  values += TEXTS.map do |t|
    options = { key_provider: provider.(DETERMINISTIC), cipher_options: { deterministic: true } }
    text(encryptor.encrypt(t, **options), t)
  end
  values << text(encryptor.encrypt("bytes".b, key_provider: provider.(PRIMARY)), "bytes")
  encryption.config.store_key_references = true
  values << text(encryptor.encrypt("says its key", key_provider: provider.(PRIMARY)), "says its key")
  encryption.config.store_key_references = false
  tell("rails_#{word}", made_by, { format: "rails", salt: SALT }, [PRIMARY, DETERMINISTIC], ["another key"], values)
end
encryption.config.hash_digest_class = OpenSSL::Digest::SHA256
encryption.context.instance_variable_set(:@key_generator, encryption::KeyGenerator.new)
values = encryption.with_encryption_context(key_generator: encryption::KeyGenerator.new) do
  provider = encryption::EnvelopeEncryptionKeyProvider.new
  TEXTS.map { |t| text(encryption::Encryptor.new.encrypt(t, key_provider: provider), t) }
end
tell("rails_envelope", made_by, { format: "rails", salt: SALT }, [PRIMARY], ["another key"], values)
# activerecord/test/cases/encryption/encryptable_record_test.rb, "deterministic ciphertexts remain constant", with the keys
# of activerecord/test/support/encryption_config.rb.
known = '{"p":"DIohhw==","h":{"iv":"wEPaDcJP3VNIxaiz","at":"X7+2xvvcu1k1if6Dy28Esw=="}}'
tell("rails_known", "Rails' own tests (a known value)", { format: "rails", salt: SALT }, [PRIMARY, DETERMINISTIC],
     ["another key"], [text(known, "Dune")])

made_by = "Lockbox #{Lockbox::VERSION} (a checkout of its repository)"
master, other = "0b" * 32, "0c" * 32
box = ->(key, **options) { Lockbox.new(key: Lockbox.attribute_key(table: "users", attribute: "email_ciphertext", master_key: key), encode: true, **options) }
reader = { format: "lockbox", table: "users", attribute: "email_ciphertext" }
tell("lockbox_master_key", made_by, reader, [master], [other], TEXTS.map { |t| text(box.(master).encrypt(t), t) })
padded = TEXTS.map { |t| text(box.(master, padding: true).encrypt(t), t) }
tell("lockbox_padded", made_by, reader.merge(pad_to: 16), [master], [other], padded)
raw = TEXTS.map { |t| { form: "bytes", stored_hex: Lockbox.new(key: master).encrypt(t).unpack1("H*"), plaintext: t } }
tell("lockbox_bytes", made_by, { format: "lockbox", encoding: "raw" }, [master], [other], raw)
context = TEXTS.map { |t| text(Lockbox.new(key: master, encode: true).encrypt(t, associated_data: "context"), t) }
tell("lockbox_associated_data", made_by, { format: "lockbox", associated_data: "context" }, [master], [other], context)
# test/lockbox_test.rb, test_decrypt_not_broken, and docs/Compatibility.md.
tell("lockbox_known", "Lockbox's own tests (a known value)", { format: "lockbox" }, ["0" * 64], [other],
     [text("4nz8vb+KROTD6l9DvxanuOqn9OJWy7LpLDTKHHoM9Ll0lx+FAg==", "it works!")])
