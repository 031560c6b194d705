// An application of before: it knows AES-256-GCM by node:crypto, with an IV of 16 bytes, as `IV:TAG:CIPHERTEXT` in hexadecimal
// digits, and no envelopes. Lines in and out as in old.py.
const { createCipheriv, createDecipheriv, randomBytes } = require('node:crypto')
const key = Buffer.from(process.argv[1], 'base64url')
const does = {
  write(text) {
    const iv = randomBytes(16)
    const cipher = createCipheriv('aes-256-gcm', key, iv)
    const ciphertext = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
    return [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString('hex')).join(':')
  },
  read(stored) {
    const [iv, tag, ciphertext] = stored.split(':').map((part) => Buffer.from(part, 'hex'))
    const decipher = createDecipheriv('aes-256-gcm', key, iv).setAuthTag(tag)
    return decipher.update(ciphertext, null, 'utf8') + decipher.final('utf8')
  },
}
require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [verb, texts] = JSON.parse(line)
  console.log(JSON.stringify(texts.map(does[verb])))
})
