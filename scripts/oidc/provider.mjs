// An OpenID provider for the tests, which gives out access tokens that are JWTs. Its keys are made at its start and gone with it.
//
//   node provider.mjs PORT [URL]
//
// With the URL of a service, people sign in to its console with the client `console`, under any name and password. Somebody has their name
// as their role too.
//
// A client `NAME` with the secret `NAME-secret` gets the roles `NAME` in its tokens, and the organisation that is its name too. The
// resource `urn:enfold:ALGORITHM` says how a token is signed; its audience is `enfold` in all cases but `urn:elsewhere`. A client `NAME-mfa`
// has the role `NAME`, and its tokens say that there was a second factor.
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, service] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;

const made = (alg, type, options) => {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, alg, use: 'sig', kid: `${alg}-${process.pid}` };
};
const keys = [
  made('RS256', 'rsa', { modulusLength: 2048 }),
  made('ES256', 'ec', { namedCurve: 'P-256' }),
  made('EdDSA', 'ed25519', {}),
  // One that nobody who verifies for Enfold may use.
  made('PS256', 'rsa', { modulusLength: 2048 }),
];

const client = (name) => ({
  client_id: name,
  client_secret: `${name}-secret`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
});

const pages = {
  client_id: 'console',
  client_secret: 'console-secret',
  redirect_uris: [`${service}/console/signed-in`],
  grant_types: ['authorization_code'],
  response_types: ['code'],
};

const provider = new Provider(issuer, {
  jwks: { keys },
  clients: [...['billing', 'acme', 'stranger', 'oncall', 'oncall-mfa', 'security', 'admin'].map(client), ...(service ? [pages] : [])],
  findAccount: (_, name) => ({ accountId: name, claims: () => ({ sub: name, roles: [name] }) }),
  claims: { openid: ['sub', 'roles'] },
  // What people may do stands in their ID token, as with most providers.
  conformIdTokenClaims: false,
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'PS256'] },
  extraTokenClaims: (_, { clientId }) => ({
    roles: [clientId.replace(/-mfa$/, ''), 'other'],
    access: { org: clientId },
    amr: clientId.endsWith('-mfa') ? ['pwd', 'mfa'] : ['pwd'],
  }),
  features: {
    devInteractions: { enabled: Boolean(service) },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        scope: '',
        audience: resource === 'urn:elsewhere' ? 'elsewhere' : 'enfold',
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: resource.split(':')[2] ?? 'RS256' } },
      }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log(issuer));
