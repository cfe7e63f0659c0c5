"""Drives the server with the Python client, as scripts and notebooks do."""

import base64
import os
import tempfile
import threading
import unittest

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

IMAGE = "localhost:5000/hello:v1"
MANIFESTS = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{color: blue}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: {IMAGE}
          command: [/hello, --port=8080]
          ports: [{{containerPort: 8080}}]
"""


def refused(code, reason, call, *arguments, **named):
    """Checks that a call is refused, and for the right reason."""
    try:
        call(*arguments, **named)
    except ApiException as error:
        assert error.status == code and reason in error.body, f"{error.status} {error.body}"
    else:
        raise AssertionError("not refused")


class PythonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.core, cls.apps = client.CoreV1Api(), client.AppsV1Api()
        cls.namespace = cls.core.create_namespace({"metadata": {"generateName": "py-"}}).metadata.name
        cls.addClassCleanup(cls.core.delete_namespace, cls.namespace)

    def running(self, name, command):
        pod = client.V1Pod(
            metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
            spec=client.V1PodSpec(
                termination_grace_period_seconds=0,
                automount_service_account_token=False,
                containers=[client.V1Container(name="main", image=IMAGE, command=command)],
            ),
        )
        self.core.create_namespaced_pod(self.namespace, pod)
        for event in watch.Watch().stream(
            self.core.list_namespaced_pod, self.namespace, field_selector=f"metadata.name={name}", timeout_seconds=60
        ):
            if any(c.type == "Ready" and c.status == "True" for c in event["object"].status.conditions or []):
                return
        self.fail(f"{name} does not run")

    def test_typed(self):
        maps = self.core
        made = maps.create_namespaced_config_map(
            self.namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed"), data={"a": "1"})
        )
        self.assertEqual(made.data, {"a": "1"})
        patched = maps.patch_namespaced_config_map("typed", self.namespace, {"data": {"b": "2"}})
        self.assertEqual(patched.data, {"a": "1", "b": "2"})
        made.data["late"] = "yes"
        refused(409, "please apply your changes to the latest version", maps.replace_namespaced_config_map, "typed", self.namespace, made)
        patched.data = {"c": "3"}
        self.assertEqual(maps.replace_namespaced_config_map("typed", self.namespace, patched).data, {"c": "3"})
        listed = maps.list_namespaced_config_map(self.namespace, limit=1)
        self.assertTrue(listed.metadata._continue)
        refused(404, '"NotFound"', maps.read_namespaced_config_map, "nope", self.namespace)
        refused(422, "Unsupported value", maps.create_namespaced_service, self.namespace,
                {"metadata": {"name": "s"}, "spec": {"type": "Nope", "ports": [{"port": 80}]}})
        gone = maps.delete_namespaced_config_map("typed", self.namespace)
        self.assertEqual(gone["status"], "Success")
        maps.create_namespaced_secret(self.namespace, {"metadata": {"name": "s"}, "stringData": {"p": "q"}})
        self.assertEqual(base64.b64decode(maps.read_namespaced_secret("s", self.namespace).data["p"]), b"q")
        self.assertIn("apps", [group.name for group in client.ApisApi().get_api_versions().groups])
        self.assertEqual(client.VersionApi().get_code().minor, "36")

    def test_create_from_yaml(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(MANIFESTS)
            file.flush()
            utils.create_from_yaml(client.ApiClient(), file.name, namespace=self.namespace)
            with self.assertRaises(utils.FailToCreateError):
                utils.create_from_yaml(client.ApiClient(), file.name, namespace=self.namespace)
        changes = watch.Watch()
        for event in changes.stream(self.apps.list_namespaced_deployment, self.namespace, timeout_seconds=60):
            if event["object"].status.ready_replicas == 1:
                changes.stop()
        scaled = self.apps.patch_namespaced_deployment_scale("web", self.namespace, {"spec": {"replicas": 0}})
        self.assertEqual(scaled.spec.replicas, 0)
        self.assertEqual(self.core.read_namespaced_service("web", self.namespace).spec.ports[0].target_port, 8080)
        utils.create_from_dict(client.ApiClient(), {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [
                {"name": "c", "image": IMAGE, "command": ["true"]}]}}}}, namespace=self.namespace)
        for event in watch.Watch().stream(client.BatchV1Api().list_namespaced_job, self.namespace, timeout_seconds=60):
            if event["object"].status.succeeded == 1:
                break
        else:
            self.fail("the Job does not end")

    def test_dynamic(self):
        dynamic_client = dynamic.DynamicClient(client.ApiClient())
        definitions = dynamic_client.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
        definitions.create(body=yaml.safe_load("""
            metadata: {name: pets.py.example.com}
            spec:
              group: py.example.com
              scope: Namespaced
              names: {plural: pets, kind: Pet, shortNames: [pt]}
              versions:
              - name: v1
                served: true
                storage: true
                schema:
                  openAPIV3Schema:
                    type: object
                    properties: {spec: {type: object, properties: {name: {type: string, default: Rex}}}}
            """))
        self.addCleanup(definitions.delete, name="pets.py.example.com")
        for event in definitions.watch(name="pets.py.example.com", timeout=60):
            conditions = (event["object"].to_dict().get("status") or {}).get("conditions") or []
            if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                break
        pets = dynamic_client.resources.get(api_version="py.example.com/v1", kind="Pet")
        made = pets.create(namespace=self.namespace, body={"kind": "Pet", "apiVersion": "py.example.com/v1", "metadata": {"name": "dog"}, "spec": {}})
        self.assertEqual(made.spec.name, "Rex")
        patched = pets.patch(namespace=self.namespace, name="dog", body={"spec": {"name": "Fido"}}, content_type="application/merge-patch+json")
        self.assertEqual(patched.spec.name, "Fido")
        with self.assertRaises(ConflictError):
            pets.replace(namespace=self.namespace, body=made)
        applied = pets.server_side_apply(namespace=self.namespace, name="dog", field_manager="py", force_conflicts=True,
                                         body={"kind": "Pet", "apiVersion": "py.example.com/v1", "spec": {"name": "Waldo"}})
        self.assertEqual(applied.spec.name, "Waldo")
        self.assertEqual([pet.metadata.name for pet in pets.get(namespace=self.namespace).items], ["dog"])
        custom = client.CustomObjectsApi().list_namespaced_custom_object("py.example.com", "v1", self.namespace, "pets")
        self.assertEqual(custom["items"][0]["spec"], {"name": "Waldo"})
        pets.delete(namespace=self.namespace, name="dog")
        with self.assertRaises(NotFoundError):
            pets.get(namespace=self.namespace, name="dog")

    def test_watch_resumes(self):
        before = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version
        for name in ["one", "two"]:
            self.core.create_namespaced_config_map(self.namespace, {"metadata": {"name": name, "labels": {"w": "r"}}})
        self.core.delete_namespaced_config_map("one", self.namespace)
        seen = [
            (event["type"], event["object"].metadata.name)
            for event in watch.Watch().stream(
                self.core.list_namespaced_config_map, self.namespace, label_selector="w=r", resource_version=before, timeout_seconds=1
            )
        ]
        self.assertEqual(seen, [("ADDED", "one"), ("ADDED", "two"), ("DELETED", "one")])

    def test_streams(self):
        self.running("shell", ["/hello", "--port=8080"])
        attach = self.core.connect_get_namespaced_pod_exec
        said = stream(attach, "shell", self.namespace, command=["sh", "-c", "echo out; echo err >&2"], stderr=True, stdin=False, stdout=True, tty=False)
        self.assertEqual(sorted(said.split()), ["err", "out"])
        session = stream(attach, "shell", self.namespace, command=["sh"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
        session.write_stdin("echo over there\n")
        self.assertEqual(session.readline_stdout(timeout=20), "over there")
        session.write_stdin("exit 3\n")
        session.run_forever(timeout=20)
        self.assertEqual(session.returncode, 3)
        self.assertIn("hello v1 listening", self.core.read_namespaced_pod_log("shell", self.namespace))
        forwarded = portforward(self.core.connect_get_namespaced_pod_portforward, "shell", self.namespace, ports="8080")
        socket = forwarded.socket(8080)
        socket.setblocking(True)
        socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := socket.recv(4096):
            answer += chunk
        self.assertIn(b"hello v1 from shell", answer)
        through = self.core.connect_get_namespaced_pod_proxy_with_path("shell:8080", self.namespace, "env/HOME")
        self.assertTrue(through)

    def test_who_may(self):
        review = client.AuthorizationV1Api().create_self_subject_access_review(
            {"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}})
        self.assertTrue(review.status.allowed)
        token = self.core.create_namespaced_service_account_token("default", self.namespace, {"spec": {"expirationSeconds": 600}})
        mine = client.Configuration.get_default_copy()
        mine.cert_file = mine.key_file = None
        mine.api_key = {"authorization": f"Bearer {token.status.token}"}
        refused(403, f"system:serviceaccount:{self.namespace}:default", client.CoreV1Api(client.ApiClient(mine)).list_namespaced_pod, self.namespace)

    def test_leader_election(self):
        led = threading.Event()
        lock = LeaseLock("py-election", self.namespace, "candidate")
        elected = electionconfig.Config(lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=led.set, onstopped_leading=lambda: None)
        threading.Thread(target=leaderelection.LeaderElection(elected).run, daemon=True).start()
        self.assertTrue(led.wait(30))
        lease = client.CoordinationV1Api().read_namespaced_lease("py-election", self.namespace)
        self.assertEqual(lease.spec.holder_identity, "candidate")


if __name__ == "__main__":
    unittest.main()
