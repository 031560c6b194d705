// Opens values as the application did that seal.cjs is of: what it cannot read, it ends at.
const { createDecipheriv } = require('node:crypto')
const opened = JSON.parse(require('node:fs').readFileSync(0, 'utf8')).map(({ key, iv: length, stored }) => {
  const bytes = Buffer.from(stored, 'base64')
  const decipher = createDecipheriv('aes-256-gcm', Buffer.from(key, 'base64'), bytes.subarray(0, length))
  decipher.setAuthTag(bytes.subarray(-16))
  return decipher.update(bytes.subarray(length, -16), null, 'utf8') + decipher.final('utf8')
})
process.stdout.write(JSON.stringify(opened))
