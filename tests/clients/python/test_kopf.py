"""An operator on kopf: handlers, a finalizer, a status and children."""

import threading
import time
import unittest

import kopf
import yaml
from kubernetes import client, config

DEFINITION = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: exes.kopf.example.com}
spec:
  group: kopf.example.com
  scope: Namespaced
  names: {plural: exes, singular: ex, kind: Ex}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
""")
farewells = []


@kopf.on.create("kopf.example.com", "v1", "exes")
def create(body, spec, name, namespace, **_):
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"word": spec["word"]}}
    kopf.adopt(child)
    client.CoreV1Api().create_namespaced_config_map(namespace, child)
    kopf.info(body, reason="Made", message="made a child")
    return {"made": True}


@kopf.on.field("kopf.example.com", "v1", "exes", field="spec.word")
def change(old, new, name, namespace, **_):
    if old is not None:
        client.CoreV1Api().patch_namespaced_config_map(name, namespace, {"data": {"word": new}})


@kopf.on.delete("kopf.example.com", "v1", "exes")
def delete(name, **_):
    farewells.append(name)


def eventually(what, seen):
    for _ in range(600):
        if seen():
            return
        time.sleep(0.1)
    raise AssertionError(what)


class Kopf(unittest.TestCase):
    def test_operator(self):
        config.load_kube_config()
        core, custom, extensions = client.CoreV1Api(), client.CustomObjectsApi(), client.ApiextensionsV1Api()
        extensions.create_custom_resource_definition(DEFINITION)
        ready, stop = threading.Event(), threading.Event()
        settings = kopf.OperatorSettings()
        settings.posting.enabled = True
        operator = threading.Thread(target=kopf.run, kwargs={
            "settings": settings, "namespaces": ["default"], "standalone": True, "ready_flag": ready, "stop_flag": stop})
        operator.start()
        try:
            self.assertTrue(ready.wait(60))
            where = ("kopf.example.com", "v1", "default", "exes")
            custom.create_namespaced_custom_object(*where, {"apiVersion": "kopf.example.com/v1", "kind": "Ex", "metadata": {"name": "one"}, "spec": {"word": "hello"}})
            eventually("status", lambda: custom.get_namespaced_custom_object(*where, "one").get("status", {}).get("create") == {"made": True})
            child = core.read_namespaced_config_map("one", "default")
            self.assertEqual((child.data, child.metadata.owner_references[0].kind), ({"word": "hello"}, "Ex"))
            custom.patch_namespaced_custom_object(*where, "one", {"spec": {"word": "welcome"}})
            eventually("change", lambda: core.read_namespaced_config_map("one", "default").data == {"word": "welcome"})
            eventually("event", lambda: any((e.involved_object.name, e.reason) == ("one", "Made") for e in core.list_namespaced_event("default").items))
            custom.delete_namespaced_custom_object(*where, "one")
            eventually("farewell", lambda: farewells == ["one"])
            eventually("child gone", lambda: not core.list_namespaced_config_map("default", field_selector="metadata.name=one").items)
        finally:
            stop.set()
            operator.join(30)
        extensions.delete_custom_resource_definition("exes.kopf.example.com")


if __name__ == "__main__":
    unittest.main()
