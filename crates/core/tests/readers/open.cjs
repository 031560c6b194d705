// Opens values as an application on Node does: `node:crypto` does the cryptography, and the layouts are taken apart here by the
// settings of a reader. In and out as in open.py, AES-256-GCM alone.
const { createDecipheriv, createHash, hkdfSync, pbkdf2Sync, scryptSync } = require('node:crypto')
const cases = JSON.parse(require('node:fs').readFileSync(0, 'utf8'))

function keyOf(reader, text) {
  const secret = Buffer.from(text, { text: 'utf8', hex: 'hex', base64: 'base64' }[reader.key_encoding])
  const [salt, derive] = [reader.salt ?? '', reader.derive ?? '']
  if (derive.startsWith('pbkdf2-')) return pbkdf2Sync(secret, salt, reader.iterations, 32, derive.slice(7))
  if (derive === 'hkdf-sha256') return Buffer.from(hkdfSync('sha256', secret, salt, reader.info ?? '', 32))
  if (derive === 'scrypt') return scryptSync(secret, salt, 32)
  return derive === 'sha256' ? createHash('sha256').update(secret).digest() : secret
}

// Of a text, or of bytes where they are stored as they are.
function decode(reader, stored) {
  return reader.encoding === 'raw' ? stored : Buffer.from(stored.toString(), reader.encoding.replace('-unpadded', ''))
}

function partsOf(reader, stored) {
  const iv = reader.iv_bytes ?? 12
  const order = reader.parts ?? ['iv', 'ciphertext', 'tag']
  const rest = stored.subarray(Buffer.byteLength(reader.prefix ?? ''))
  const parts = {}
  if (reader.fields) {
    const members = JSON.parse(rest.toString())
    for (const [part, name] of Object.entries(reader.fields)) parts[part] = decode(reader, members[name])
    if (!parts.iv) [parts.iv, parts.ciphertext] = [parts.ciphertext.subarray(0, iv), parts.ciphertext.subarray(iv)]
  } else if (reader.separator) {
    rest.toString().split(reader.separator).forEach((text, n) => (parts[order[n]] = decode(reader, text)))
  } else {
    let joined = decode(reader, rest)
    const lengths = { iv, tag: 16, ciphertext: joined.length - iv - (order.includes('tag') ? 16 : 0) }
    for (const part of order) {
      parts[part] = joined.subarray(0, lengths[part])
      joined = joined.subarray(lengths[part])
    }
  }
  if (!parts.tag) {
    parts.tag = parts.ciphertext.subarray(-16)
    parts.ciphertext = parts.ciphertext.subarray(0, -16)
  }
  return parts
}

const opened = cases.flatMap(({ reader, keys, values }) => {
  const key = keyOf(reader, keys[0])
  return values.map((value) => {
    const { iv, ciphertext, tag } = partsOf(reader, Buffer.from(value, 'base64'))
    const decipher = createDecipheriv('aes-256-gcm', key, iv)
    decipher.setAuthTag(tag)
    if (reader.associated_data) decipher.setAAD(Buffer.from(reader.associated_data))
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString('base64')
  })
})
process.stdout.write(JSON.stringify(opened))
