// Prints the shape of every API message, from the struct tags of upstream's Go types.
package main

import (
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

var done = map[string][]string{}

func name(t reflect.Type) string {
	return strings.NewReplacer("/", ".", "-", "_").Replace(t.PkgPath()) + "." + t.Name()
}

func scalar(t reflect.Type, tag string) string {
	switch t.Kind() {
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "b"
	case reflect.Int32, reflect.Int16, reflect.Int8:
		return "i"
	case reflect.Int64, reflect.Int, reflect.Uint32, reflect.Uint64, reflect.Uint8:
		return "l"
	case reflect.Float64, reflect.Float32:
		return "d"
	}
	return ""
}

// code of a field's type: * pointer, [] list, {} map, then a letter or =message
func code(t reflect.Type, tag string) string {
	if t.Kind() == reflect.Pointer {
		return "*" + code(t.Elem(), tag)
	}
	if t.Kind() == reflect.Slice && t.Name() != "" && t.Elem().Kind() == reflect.String {
		return "=" + name(t)
	}
	if t.Kind() == reflect.Slice {
		if t.Elem().Kind() == reflect.Uint8 {
			return "y"
		}
		return "[]" + strings.TrimPrefix(code(t.Elem(), tag), "*")
	}
	if t.Kind() == reflect.Map {
		return "{}" + strings.TrimPrefix(code(t.Elem(), tag), "*")
	}
	if t.Kind() == reflect.Struct {
		visit(t)
		return "=" + name(t)
	}
	return scalar(t, tag)
}

func visit(t reflect.Type) {
	n := name(t)
	if _, seen := done[n]; seen {
		return
	}
	done[n] = []string{}
	switch t.Name() {
	case "Quantity", "IntOrString", "Time", "MicroTime", "Duration", "RawExtension", "FieldsV1", "JSON", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrStringArray":
		if t.Name() == "JSONSchemaPropsOrBool" || t.Name() == "JSONSchemaPropsOrArray" || t.Name() == "JSONSchemaPropsOrStringArray" {
			for i := 0; i < t.NumField(); i++ {
				code(t.Field(i).Type, "")
			}
		}
		delete(done, n)
		return
	}
	var lines []string
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		tag := f.Tag.Get("protobuf")
		json := strings.Split(f.Tag.Get("json"), ",")
		if tag == "" || tag == "-" {
			if f.Anonymous && f.Type.Name() != "TypeMeta" && f.Type.Kind() == reflect.Struct {
				fmt.Fprintln(os.Stderr, "no tag", n, f.Name)
			}
			continue
		}
		parts := strings.Split(tag, ",")
		jsonName := json[0]
		flags := ""
		for _, o := range json[1:] {
			if o == "omitempty" || o == "omitzero" {
				flags += "?"
			}
			if o == "inline" {
				jsonName = "~"
			}
		}
		if jsonName == "" {
			jsonName = "~"
		}
		if strings.Count(flags, "?") > 1 {
			flags = "?"
		}
		lines = append(lines, fmt.Sprintf("%s %s%s %s", parts[1], jsonName, flags, code(f.Type, tag)))
	}
	done[n] = lines
}

func main() {
	s := runtime.NewScheme()
	_ = scheme.AddToScheme(s)
	_ = apiextensions.AddToScheme(s)
	_ = apiregistration.AddToScheme(s)
	for gvk, t := range s.AllKnownTypes() {
		if gvk.Version == "__internal" || strings.HasSuffix(gvk.Kind, "Options") && gvk.Group != "" || gvk.Kind == "WatchEvent" {
			continue
		}
		visit(t)
	}
	visit(reflect.TypeOf(metav1.PartialObjectMetadata{}))
	visit(reflect.TypeOf(metav1.PartialObjectMetadataList{}))
	visit(reflect.TypeOf(metav1.Status{}))
	visit(reflect.TypeOf(metav1.DeleteOptions{}))
	var names []string
	for n := range done {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Println(n)
		for _, l := range done[n] {
			fmt.Println(" " + l)
		}
	}
}
