// Layouts of AES-256-GCM as applications on Node write them: `node:crypto` does the cryptography, and the layout is put
// together here. Run by make.py.
const { createCipheriv, createHash, randomBytes } = require('node:crypto')
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const key = name => createHash('sha256').update(name).digest()
const [right, wrong] = [key("an application's key"), key('another key')]

function sealed(plaintext, ivLength) {
  const iv = randomBytes(ivLength)
  const cipher = createCipheriv('aes-256-gcm', right, iv)
  const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()])
  return { iv, ciphertext, tag: cipher.getAuthTag() }
}

function write(name, reader, ivLength, stored) {
  const values = texts.map(plaintext => ({ plaintext, ...stored(sealed(plaintext, ivLength)) }))
  console.log(JSON.stringify({
    name: `aes_gcm_node_${name}`,
    made_by: `node:crypto of Node.js ${process.version}`,
    reader: { format: 'aes-256-gcm', key_encoding: 'hex', ...reader },
    keys: [right.toString('hex')],
    wrong_keys: [wrong.toString('hex')],
    values
  }))
}

const text = (stored, beside) => ({ form: 'text', stored, ...(beside && { beside }) })
const hex = bytes => bytes.toString('hex')
const base64 = (...bytes) => Buffer.concat(bytes).toString('base64')

write('beside', { encoding: 'base64', parts: ['ciphertext'], apart: ['iv'] }, 12,
  v => text(base64(v.ciphertext, v.tag), { iv: base64(v.iv) }))
write('tag_beside', { encoding: 'hex', parts: ['ciphertext'], apart: ['iv', 'tag'] }, 12,
  v => text(hex(v.ciphertext), { iv: hex(v.iv), tag: hex(v.tag) }))

// Sixteen bytes of IV, as the examples that most people begin with have them.
write('long_iv_hex', { encoding: 'hex', separator: ':', iv_bytes: 16, parts: ['iv', 'tag', 'ciphertext'] }, 16,
  v => text([v.iv, v.tag, v.ciphertext].map(hex).join(':')))
write('long_iv_base64', { encoding: 'base64', iv_bytes: 16 }, 16, v => text(base64(v.iv, v.ciphertext, v.tag)))
write('long_iv_json', { encoding: 'base64', iv_bytes: 16, fields: { iv: 'iv', ciphertext: 'content', tag: 'tag' } }, 16,
  v => text(JSON.stringify({ iv: base64(v.iv), content: base64(v.ciphertext), tag: base64(v.tag) })))
