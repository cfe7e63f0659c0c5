package core

import (
	"context"
	"fmt"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/utils/ptr"
)

var widgets = schema.GroupVersionResource{Group: "go.example.com", Version: "v1", Resource: "widgets"}

// definition is a kind with defaults, limits, status, scale and columns.
func definition() *apiextensionsv1.CustomResourceDefinition {
	integer := func(least float64) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: &least}
	}
	size := integer(1)
	size.Default = &apiextensionsv1.JSON{Raw: []byte("3")}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.go.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: widgets.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{
				Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList", ShortNames: []string{"wdg"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale: &apiextensionsv1.CustomResourceSubresourceScale{
						SpecReplicasPath: ".spec.size", StatusReplicasPath: ".status.size", LabelSelectorPath: ptr.To(".status.selector")},
				},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec": {Type: "object", Required: []string{"color"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"size":  size,
							"color": {Type: "string", Enum: []apiextensionsv1.JSON{{Raw: []byte(`"red"`)}, {Raw: []byte(`"blue"`)}}},
						}},
						"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"size": integer(0), "selector": {Type: "string"}}},
					},
				}},
			}},
		},
	}
}

// TestCustomResources defines a kind and uses it at once, as installers do.
func TestCustomResources(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	extensions, err := apiextensions.NewForConfig(config(t))
	must(t, err)
	definitions := extensions.ApiextensionsV1().CustomResourceDefinitions()
	_, err = definitions.Create(ctx, definition(), metav1.CreateOptions{})
	must(t, err)
	eventually(t, "the kind is established", func(ctx context.Context) (bool, error) {
		made, err := definitions.Get(ctx, "widgets.go.example.com", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range made.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	untyped, err := dynamic.NewForConfig(config(t))
	must(t, err)
	client := untyped.Resource(widgets).Namespace(ns)
	events, err := client.Watch(ctx, metav1.ListOptions{})
	must(t, err)
	defer events.Stop()

	widget := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "go.example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "w"}, "spec": spec}}
	}
	made, err := client.Create(ctx, widget(map[string]any{"color": "red", "unknown": "pruned"}), metav1.CreateOptions{})
	must(t, err)
	want(t, "spec with defaults and pruned", fmt.Sprint(made.Object["spec"]), "map[color:red size:3]")
	want(t, "generation", made.GetGeneration(), 1)
	_, err = client.Create(ctx, widget(map[string]any{"color": "red", "unknown": "x"}), metav1.CreateOptions{FieldValidation: "Strict"})
	refused(t, err, apierrors.IsBadRequest, `unknown field "spec.unknown"`)
	bad := widget(map[string]any{"color": "green", "size": int64(0)})
	bad.SetName("bad")
	_, err = client.Create(ctx, bad, metav1.CreateOptions{})
	refused(t, err, apierrors.IsInvalid, `spec.color: Unsupported value: "green": supported values: "red", "blue"`)
	refused(t, err, apierrors.IsInvalid, `spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1`)

	patched, err := client.Patch(ctx, "w", types.MergePatchType, []byte(`{"spec":{"size":5},"status":{"size":9}}`), metav1.PatchOptions{})
	must(t, err)
	want(t, "status by the main resource", fmt.Sprint(patched.Object["status"]), "<nil>")
	want(t, "generation after a change", patched.GetGeneration(), 2)
	must(t, unstructured.SetNestedField(patched.Object, int64(5), "status", "size"))
	must(t, unstructured.SetNestedField(patched.Object, "app=w", "status", "selector"))
	patched, err = client.UpdateStatus(ctx, patched, metav1.UpdateOptions{})
	must(t, err)
	want(t, "generation after a status", patched.GetGeneration(), 2)
	applied, err := client.Apply(ctx, "w", widget(map[string]any{"color": "blue"}), metav1.ApplyOptions{FieldManager: "painter", Force: true})
	must(t, err)
	want(t, "spec after apply", fmt.Sprint(applied.Object["spec"]), "map[color:blue size:5]")
	scaled, err := client.Get(ctx, "w", metav1.GetOptions{}, "scale")
	must(t, err)
	want(t, "kind of the scale", scaled.GetKind(), "Scale")
	want(t, "scale", fmt.Sprint(scaled.Object["status"]), "map[replicas:5 selector:app=w]")

	few, err := metadata.NewForConfig(config(t))
	must(t, err)
	partial, err := few.Resource(widgets).Namespace(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	want(t, "by metadata", len(partial.Items), 1)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discoveryClient(t)))
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: widgets.Group, Kind: "Widget"})
	must(t, err)
	want(t, "mapping", mapping.Resource, widgets)
	eventually(t, "the kind is described", func(context.Context) (bool, error) {
		paths, err := discoveryClient(t).OpenAPIV3().Paths()
		return paths["apis/go.example.com/v1"] != nil, err
	})

	must(t, client.Delete(ctx, "w", metav1.DeleteOptions{}))
	story := ""
	for event := range events.ResultChan() {
		story += string(event.Type[0])
		if event.Type == watch.Deleted {
			break
		}
	}
	want(t, "what the watch told", story, "AMMMD")
	_, err = client.Create(ctx, widget(map[string]any{"color": "red"}), metav1.CreateOptions{})
	must(t, err)
	must(t, definitions.Delete(ctx, "widgets.go.example.com", metav1.DeleteOptions{}))
	eventually(t, "the kind is gone with its objects", func(ctx context.Context) (bool, error) {
		_, err := client.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			_, err = definitions.Get(ctx, "widgets.go.example.com", metav1.GetOptions{})
			return apierrors.IsNotFound(err), nil
		}
		return false, err
	})
}
