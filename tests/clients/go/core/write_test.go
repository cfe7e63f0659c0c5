package core

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// TestApply shares one object between two appliers: fields, conflicts, force, and giving up.
func TestApply(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	apply := func(manager string, force bool, data map[string]string) (*corev1.ConfigMap, error) {
		return maps.Apply(ctx, applycore.ConfigMap("shared", ns).WithData(data), metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	_, err := apply("alice", false, map[string]string{"a": "1", "both": "1"})
	must(t, err)
	_, err = apply("bob", false, map[string]string{"b": "1", "both": "2"})
	refused(t, err, apierrors.IsConflict, `Apply failed with 1 conflict: conflict with "alice": .data.both`)
	status := err.(apierrors.APIStatus).Status()
	want(t, "cause", status.Details.Causes[0].Type, metav1.CauseTypeFieldManagerConflict)
	want(t, "field", status.Details.Causes[0].Field, ".data.both")

	shared, err := apply("bob", true, map[string]string{"b": "1", "both": "2"})
	must(t, err)
	want(t, "data", fmt.Sprint(shared.Data), "map[a:1 b:1 both:2]")
	shared, err = apply("bob", false, map[string]string{})
	must(t, err)
	want(t, "data after bob gave up", fmt.Sprint(shared.Data), "map[a:1]")

	extracted, err := applycore.ExtractConfigMap(shared, "alice")
	must(t, err)
	want(t, "what alice owns", fmt.Sprint(extracted.Data), "map[a:1]")
	again, err := maps.Apply(ctx, extracted, metav1.ApplyOptions{FieldManager: "alice"})
	must(t, err)
	want(t, "resourceVersion of an apply without a change", again.ResourceVersion, shared.ResourceVersion)
}

// TestApplyListMap applies into lists that are keyed.
func TestApplyListMap(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	deployments := clients(t).AppsV1().Deployments(ns)
	labels := map[string]string{"app": "web"}
	deployment := func(containers ...*applycore.ContainerApplyConfiguration) *applyapps.DeploymentApplyConfiguration {
		return applyapps.Deployment("web", ns).WithSpec(applyapps.DeploymentSpec().WithReplicas(0).
			WithSelector(applymeta.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(applycore.PodTemplateSpec().WithLabels(labels).WithSpec(applycore.PodSpec().WithContainers(containers...))))
	}
	container := func(name string) *applycore.ContainerApplyConfiguration {
		return applycore.Container().WithName(name).WithImage(image)
	}
	_, err := deployments.Apply(ctx, deployment(container("web")), metav1.ApplyOptions{FieldManager: "owner"})
	must(t, err)
	made, err := deployments.Apply(ctx, deployment(container("web"), container("side")), metav1.ApplyOptions{FieldManager: "injector"})
	must(t, err)
	want(t, "containers", len(made.Spec.Template.Spec.Containers), 2)
	made, err = deployments.Apply(ctx, deployment(container("web")), metav1.ApplyOptions{FieldManager: "injector"})
	must(t, err)
	want(t, "containers after the injector left", len(made.Spec.Template.Spec.Containers), 1)
}

// TestConflict lets many writers add to one object, each retrying as the helper says.
func TestConflict(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "count"}}, metav1.CreateOptions{})
	must(t, err)
	const writers = 8
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			backoff := retry.DefaultBackoff
			backoff.Steps = 50
			err := retry.RetryOnConflict(backoff, func() error {
				latest, err := maps.Get(ctx, "count", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if latest.Data == nil {
					latest.Data = map[string]string{}
				}
				latest.Data[fmt.Sprint(writer)] = "here"
				_, err = maps.Update(ctx, latest, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				t.Errorf("writer %d: %v", writer, err)
			}
		})
	}
	group.Wait()
	final, err := maps.Get(ctx, "count", metav1.GetOptions{})
	must(t, err)
	want(t, "what was written", len(final.Data), writers)
}

// TestPages reads a list in pieces that stay one moment's view while others write.
func TestPages(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	for i := range 25 {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", i), Labels: map[string]string{"page": "yes"}},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	first, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "page=yes", Limit: 10})
	must(t, err)
	want(t, "first page", len(first.Items), 10)
	must(t, maps.Delete(ctx, "page-24", metav1.DeleteOptions{}))
	second, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "page=yes", Limit: 10, Continue: first.Continue})
	must(t, err)
	third, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "page=yes", Limit: 10, Continue: second.Continue})
	must(t, err)
	want(t, "last page", len(third.Items), 5)
	want(t, "last of all", third.Items[4].Name, "page-24")
	want(t, "resourceVersion of a later page", third.ResourceVersion, first.ResourceVersion)

	seen := 0
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(ctx, options)
	})
	pages.PageSize = 7
	must(t, pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: "page=yes"}, func(runtime.Object) error {
		seen++
		return nil
	}))
	want(t, "through the pager", seen, 24)
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: "no token"})
	refused(t, err, apierrors.IsBadRequest, "continue key is not valid")
}

// TestRefusals asks for what cannot be, and reads the reasons as programs do.
func TestRefusals(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := clients(t).CoreV1()
	_, err := core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Bad_Name"}}, metav1.CreateOptions{})
	refused(t, err, apierrors.IsInvalid, `ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain`)
	pod := sleeper("p")
	pod.Spec.Containers[0].Name = ""
	pod.Spec.RestartPolicy = "Sometimes"
	_, err = core.Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	refused(t, err, apierrors.IsInvalid, "spec.containers[0].name: Required value")
	refused(t, err, apierrors.IsInvalid, `spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`)
	_, err = core.ConfigMaps("no-such-namespace").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	refused(t, err, apierrors.IsNotFound, `namespaces "no-such-namespace" not found`)
	_, err = core.ConfigMaps(ns).Patch(ctx, "c", types.JSONPatchType, []byte("{"), metav1.PatchOptions{})
	refused(t, err, func(err error) bool { return apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) }, "")
	_, err = core.Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "a in (b"})
	refused(t, err, apierrors.IsBadRequest, "unable to parse requirement: found '', expected: ',' or ')'")
	_, err = core.Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nope=1"})
	refused(t, err, apierrors.IsBadRequest, "field label not supported: spec.nope")
	big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Data: map[string]string{"a": strings.Repeat("x", 1<<20+1)}}
	_, err = core.ConfigMaps(ns).Create(ctx, big, metav1.CreateOptions{})
	refused(t, err, apierrors.IsInvalid, "Too long: may not be more than 1048576 bytes")
	must(t, core.Secrets(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))

	as := config(t)
	as.Impersonate.UserName = "bob"
	bob := clientsFor(t, as)
	_, err = bob.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	refused(t, err, apierrors.IsForbidden, fmt.Sprintf(`pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "%s"`, ns))
	nobody := config(t)
	nobody.TLSClientConfig.CertData, nobody.TLSClientConfig.CertFile = nil, ""
	nobody.TLSClientConfig.KeyData, nobody.TLSClientConfig.KeyFile = nil, ""
	nobody.BearerToken = "not.a.token"
	_, err = clientsFor(t, nobody).CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	refused(t, err, apierrors.IsUnauthorized, "Unauthorized")
}

// TestFinalizer holds an object in deletion until its finalizer is taken away.
func TestFinalizer(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "held-", Finalizers: []string{"example.com/hold"}}}
	held, err := maps.Create(ctx, held, metav1.CreateOptions{})
	must(t, err)
	must(t, maps.Delete(ctx, held.Name, metav1.DeleteOptions{}))
	held, err = maps.Get(ctx, held.Name, metav1.GetOptions{})
	must(t, err)
	if held.DeletionTimestamp == nil {
		t.Fatal("not marked for deletion")
	}
	held.Finalizers = append(held.Finalizers, "example.com/late")
	_, err = maps.Update(ctx, held, metav1.UpdateOptions{})
	refused(t, err, apierrors.IsInvalid, "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted")
	held.Finalizers = nil
	_, err = maps.Update(ctx, held, metav1.UpdateOptions{})
	must(t, err)
	_, err = maps.Get(ctx, held.Name, metav1.GetOptions{})
	refused(t, err, apierrors.IsNotFound, "not found")
}
