"""Reads the output of main.go and prints crates/kinds/data/messages.txt: what is served, with short names."""
import re
import sys

HEAD = """# The shape of every API message: number, JSON name (~ inlined, ? left out when empty), type.
# Types: s string, b bool, i int32, l int64, d double, y bytes, =message; before it * pointer, [] list, {} map with string keys.
# Packages are shortened: meta. is apimachinery's meta/v1, a bare group such as core.v1. is k8s.io/api's.
"""
PREFIXES = [
    ("k8s.io.apimachinery.pkg.apis.meta.v1.", "meta."),
    ("k8s.io.api.", ""),
    ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.", "apiextensions.v1."),
    ("k8s.io.kube_aggregator.pkg.apis.apiregistration.v1.", "apiregistration.v1."),
]
# Messages that JSON writes in a way of their own.
SPECIAL = {
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "Quantity",
    "k8s.io.apimachinery.pkg.runtime.RawExtension": "RawExtension",
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": "IntOrString",
    "meta.Time": "Time", "meta.MicroTime": "MicroTime", "meta.FieldsV1": "FieldsV1", "meta.Verbs": "Items",
    "authentication.v1.ExtraValue": "Items", "authorization.v1.ExtraValue": "Items", "certificates.v1.ExtraValue": "Items",
    "apiextensions.v1.JSON": "Json", "apiextensions.v1.JSONSchemaPropsOrBool": "SchemaOrBool",
    "apiextensions.v1.JSONSchemaPropsOrArray": "SchemaOrArray",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "SchemaOrStringArray",
}

text = sys.stdin.read()
for long, short in PREFIXES:
    text = text.replace(long, short)
blocks = re.findall(r"^\S.*\n(?: .*\n)*", text, re.M)
kept = [block for block in blocks if not re.search(r"\.v\d+(alpha|beta)\d+\.", block.split("\n")[0])]
text = "".join(kept)
text = re.sub(r"=(\S+)$", lambda found: "=" + SPECIAL.get(found[1], found[1]), text, flags=re.M)
print(HEAD + text, end="")
