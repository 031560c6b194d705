// Seals values as an application on Node does that was written by the manual: AES-256-GCM, each part by itself.
const { createCipheriv, randomBytes } = require('node:crypto')
const sealed = JSON.parse(require('node:fs').readFileSync(0, 'utf8')).map(({ key, iv: length, plaintext }) => {
  const iv = randomBytes(length)
  const cipher = createCipheriv('aes-256-gcm', Buffer.from(key, 'base64'), iv)
  const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()])
  const [a, b, c] = [iv, ciphertext, cipher.getAuthTag()].map((part) => part.toString('base64'))
  return { iv: a, ciphertext: b, tag: c }
})
process.stdout.write(JSON.stringify(sealed))
