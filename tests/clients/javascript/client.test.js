// Drives the server with the JavaScript client, as dashboards and tools on Node.js do.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { PassThrough, Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import net from 'node:net';
import * as k8s from '@kubernetes/client-node';

const image = 'localhost:5000/hello:v1';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
let namespace;

before(async () => {
  const made = await core.createNamespace({ body: { metadata: { generateName: 'js-' } } });
  namespace = made.metadata.name;
});

after(async () => {
  await core.deleteNamespace({ name: namespace });
});

async function eventually(what, seen) {
  for (let i = 0; i < 1200; i += 1) {
    const answer = await seen();
    if (answer) return answer;
    await pause(50);
  }
  return assert.fail(`waited in vain: ${what}`);
}

async function running(name) {
  await core.createNamespacedPod({
    namespace,
    body: {
      metadata: { name, labels: { app: name } },
      spec: {
        terminationGracePeriodSeconds: 0,
        containers: [{ name: 'main', image, command: ['/hello', '--port=8080'] }],
      },
    },
  });
  await eventually(`${name} runs`, async () => {
    const pod = await core.readNamespacedPod({ namespace, name });
    return pod.status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True');
  });
}

test('lists, patches and refusals', async () => {
  const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'typed', labels: { js: 'yes' } }, data: { a: '1' } } });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  const as = (type) => k8s.setHeaderOptions('Content-Type', type);
  await core.patchNamespacedConfigMap({ namespace, name: 'typed', body: { data: { merge: '1' } } }, as(k8s.PatchStrategy.MergePatch));
  await core.patchNamespacedConfigMap({ namespace, name: 'typed', body: [{ op: 'add', path: '/data/json', value: '1' }] }, as(k8s.PatchStrategy.JsonPatch));
  await core.patchNamespacedConfigMap({ namespace, name: 'typed', body: { data: { strategic: '1' } } }, as(k8s.PatchStrategy.StrategicMergePatch));
  const applied = await core.patchNamespacedConfigMap(
    { namespace, name: 'typed', fieldManager: 'js', force: true, body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'typed' }, data: { apply: '1' } } },
    as(k8s.PatchStrategy.ServerSideApply),
  );
  assert.deepEqual(applied.data, { a: '1', apply: '1', json: '1', merge: '1', strategic: '1' });
  const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'js=yes' });
  assert.deepEqual(listed.items.map((item) => item.metadata.name), ['typed']);
  await assert.rejects(core.readNamespacedConfigMap({ namespace, name: 'nope' }), (error) => {
    assert.equal(error.code, 404);
    assert.equal(JSON.parse(error.body).message, 'configmaps "nope" not found');
    return true;
  });
  await assert.rejects(core.replaceNamespacedConfigMap({ namespace, name: 'typed', body: made }), (error) => error.code === 409);
});

test('untyped objects', async () => {
  const client = k8s.KubernetesObjectApi.makeApiClient(config);
  const documents = k8s.loadAllYaml(`
apiVersion: v1
kind: Secret
metadata: {name: untyped, namespace: ${namespace}}
stringData: {word: secret}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: untyped, namespace: ${namespace}}
spec: {podSelector: {}}
`);
  for (const document of documents) await client.create(document);
  for (const document of documents) {
    const read = await client.read(document);
    assert.equal(read.kind, document.kind);
    await client.patch({ ...document, metadata: { ...document.metadata, labels: { a: 'b' } } }, undefined, undefined, undefined, undefined, k8s.PatchStrategy.MergePatch);
    await client.delete(document);
  }
});

test('watch and informer', async () => {
  const seen = [];
  const watch = new k8s.Watch(config);
  const list = await core.listNamespacedSecret({ namespace });
  const request = await watch.watch(
    `/api/v1/namespaces/${namespace}/secrets`,
    { resourceVersion: list.metadata.resourceVersion, labelSelector: 'watched=yes' },
    (type, object) => seen.push(`${type} ${object.metadata.name}`),
    () => {},
  );
  const heard = [];
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/secrets`, () => core.listNamespacedSecret({ namespace, labelSelector: 'watched=yes' }), 'watched=yes');
  for (const event of ['add', 'update', 'delete']) informer.on(event, (object) => heard.push(`${event} ${object.metadata.name}`));
  await informer.start();
  await core.createNamespacedSecret({ namespace, body: { metadata: { name: 's', labels: { watched: 'yes' } } } });
  await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'other' } } });
  await eventually('the cache is filled', () => informer.get('s', namespace));
  await core.patchNamespacedSecret({ namespace, name: 's', body: { metadata: { labels: { more: 'yes' } } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedSecret({ namespace, name: 's' });
  await eventually('the story is told', () => heard.length === 3 && seen.length === 3);
  assert.deepEqual(seen, ['ADDED s', 'MODIFIED s', 'DELETED s']);
  assert.deepEqual(heard, ['add s', 'update s', 'delete s']);
  request.abort();
  await informer.stop();
});

test('exec, log, port-forward', async () => {
  await running('shell');
  let out = '';
  const stdout = new PassThrough();
  stdout.on('data', (chunk) => { out += chunk; });
  const status = await new Promise((resolve, reject) => {
    new k8s.Exec(config)
      .exec(namespace, 'shell', 'main', ['sh', '-c', 'head -n 1; exit 4'], stdout, new PassThrough(), Readable.from(['over there\n']), false, resolve)
      .catch(reject);
  });
  assert.equal(status.status, 'Failure');
  assert.equal(status.details.causes[0].message, '4');
  assert.equal(out, 'over there\n');

  let lines = '';
  const log = new PassThrough();
  log.on('data', (chunk) => { lines += chunk; });
  const following = await new k8s.Log(config).log(namespace, 'shell', 'main', log, { follow: true, tailLines: 5 });
  await eventually('the log is read', () => lines.includes('hello v1 listening'));
  following.abort();

  const forward = new k8s.PortForward(config);
  const server = net.createServer((socket) => { forward.portForward(namespace, 'shell', [8080], socket, null, socket); });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const answer = await new Promise((resolve, reject) => {
    let text = '';
    const socket = net.connect(server.address().port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
    socket.on('data', (chunk) => {
      text += chunk;
      if (text.includes('hello v1 from shell')) {
        socket.destroy();
        resolve(text);
      }
    });
    socket.on('error', reject);
  });
  assert.match(answer, /^HTTP\/1.1 200/);
  server.close();
});

test('custom resources and scale', async () => {
  const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
  const custom = config.makeApiClient(k8s.CustomObjectsApi);
  const where = { group: 'js.example.com', version: 'v1', namespace, plural: 'toys' };
  await definitions.createCustomResourceDefinition({
    body: {
      metadata: { name: 'toys.js.example.com' },
      spec: {
        group: where.group, scope: 'Namespaced', names: { plural: 'toys', kind: 'Toy' },
        versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: { type: 'object', properties: { spec: { type: 'object', properties: { n: { type: 'integer' } } } } } } }],
      },
    },
  });
  await eventually('the kind is served', () => custom.listNamespacedCustomObject(where).then(() => true, () => false));
  await custom.createNamespacedCustomObject({ ...where, body: { apiVersion: 'js.example.com/v1', kind: 'Toy', metadata: { name: 'car' }, spec: { n: 1 } } });
  const patched = await custom.patchNamespacedCustomObject({ ...where, name: 'car', body: [{ op: 'replace', path: '/spec/n', value: 2 }] }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch));
  assert.equal(patched.spec.n, 2);
  await definitions.deleteCustomResourceDefinition({ name: 'toys.js.example.com' });

  await apps.createNamespacedDeployment({
    namespace,
    body: {
      metadata: { name: 'web' },
      spec: { replicas: 0, selector: { matchLabels: { app: 'web' } }, template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image }] } } },
    },
  });
  const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'web' });
  assert.equal(scale.spec.replicas ?? 0, 0);
  assert.equal(scale.status.selector, 'app=web');
});
