// Values of prisma-field-encryption: it calls these functions of @47ng/cloak. Run by make.py.
const cloak = require('@47ng/cloak')
const { formatKey } = require('@47ng/cloak/dist/key')
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const { version } = require('@47ng/cloak/package.json')
const key = n => formatKey(require('crypto').createHash('sha256').update('cloak ' + n).digest())
const value = (text, n) => ({
  form: 'text',
  stored: cloak.encryptStringSync(text, cloak.parseKeySync(key(n))),
  plaintext: text
})
console.log(JSON.stringify({
  name: 'cloak',
  made_by: `@47ng/cloak ${version} (npm), which prisma-field-encryption calls`,
  reader: { format: 'cloak' },
  keys: [key(0), key(1)],
  wrong_keys: [key(2)],
  values: [...texts.map(text => value(text, 0)), value('of the old key', 1)]
}))
