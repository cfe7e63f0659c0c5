package core

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// verbs is what every generated client of a kind can do.
type verbs[T, L runtime.Object] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Get(context.Context, string, metav1.GetOptions) (T, error)
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	DeleteCollection(context.Context, metav1.DeleteOptions, metav1.ListOptions) error
}

// walk takes one object of a kind through all verbs: each answer must show what was asked for, and the watch must
// tell the same story in the same order.
func walk[T, L runtime.Object](t *testing.T, kind string, client verbs[T, L], object T) {
	t.Run(kind, func(t *testing.T) {
		of := func(object T) metav1.Object {
			accessor, err := meta.Accessor(object)
			must(t, err)
			return accessor
		}
		ctx, group := t.Context(), metav1.ListOptions{LabelSelector: "walk=1"}
		name := cmp.Or(of(object).GetName(), "walker")
		of(object).SetName(name)
		of(object).SetLabels(map[string]string{"walk": "1"})

		empty, err := client.List(ctx, group)
		must(t, err)
		start, err := meta.ListAccessor(empty)
		must(t, err)
		watching := group
		watching.ResourceVersion = start.GetResourceVersion()
		events, err := client.Watch(ctx, watching)
		must(t, err)
		defer events.Stop()

		dry, err := client.Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		must(t, err)
		want(t, "resourceVersion of a dry run", of(dry).GetResourceVersion(), "")
		made, err := client.Create(ctx, object, metav1.CreateOptions{})
		must(t, err)
		created := of(made).GetCreationTimestamp()
		if of(made).GetUID() == "" || created.IsZero() || of(made).GetResourceVersion() == "" {
			t.Fatalf("created without metadata: %v", made)
		}
		_, err = client.Create(ctx, object, metav1.CreateOptions{})
		refused(t, err, apierrors.IsAlreadyExists, `"`+name+`" already exists`)

		got, err := client.Get(ctx, name, metav1.GetOptions{})
		must(t, err)
		want(t, "uid", of(got).GetUID(), of(made).GetUID())
		if list, err := client.List(ctx, group); err != nil || meta.LenList(list) != 1 {
			t.Fatalf("list: %v %v", list, err)
		}

		for patchType, patch := range map[types.PatchType]any{
			types.MergePatchType:          map[string]any{"metadata": map[string]any{"annotations": map[string]any{"merge": "1"}}},
			types.StrategicMergePatchType: map[string]any{"metadata": map[string]any{"annotations": map[string]any{"strategic": "1"}}},
			types.JSONPatchType:           []any{map[string]any{"op": "add", "path": "/metadata/labels/json", "value": "1"}},
		} {
			body, err := json.Marshal(patch)
			must(t, err)
			if _, err := client.Patch(ctx, name, patchType, body, metav1.PatchOptions{}); err != nil {
				t.Fatalf("%s: %v", patchType, err)
			}
		}
		patched, err := client.Get(ctx, name, metav1.GetOptions{})
		must(t, err)
		want(t, "label by patch", of(patched).GetLabels()["json"], "1")
		for _, key := range []string{"merge", "strategic"} { // the cluster may have added others
			want(t, "annotation by patch", of(patched).GetAnnotations()[key], "1")
		}

		_, err = client.Update(ctx, withAnnotation(t, made, "late", "1"), metav1.UpdateOptions{})
		refused(t, err, apierrors.IsConflict, "the object has been modified; please apply your changes to the latest version and try again")
		must(t, retry.RetryOnConflict(retry.DefaultRetry, func() error { // the kind's controller may write as well
			latest, err := client.Get(ctx, name, metav1.GetOptions{})
			must(t, err)
			updated, err := client.Update(ctx, withAnnotation(t, latest, "update", "1"), metav1.UpdateOptions{})
			if err == nil {
				want(t, "annotation by update", of(updated).GetAnnotations()["update"], "1")
			}
			return err
		}))

		wrong := types.UID("00000000-0000-0000-0000-000000000000")
		err = client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}})
		refused(t, err, apierrors.IsConflict, "Precondition failed: UID in precondition: "+string(wrong))
		must(t, client.DeleteCollection(ctx, metav1.DeleteOptions{}, group))
		story := ""
		for event := range events.ResultChan() {
			story += string(event.Type[0])
			if event.Type == watch.Deleted || event.Type == watch.Error {
				break
			}
		}
		if !regexp.MustCompile("^AM{4,}D$").MatchString(story) {
			t.Fatalf("the watch told %s", story)
		}
		_, err = client.Get(ctx, name, metav1.GetOptions{})
		refused(t, err, apierrors.IsNotFound, `"`+name+`" not found`)
	})
}

func withAnnotation[T runtime.Object](t *testing.T, object T, key, value string) T {
	t.Helper()
	copied := object.DeepCopyObject().(T)
	accessor, err := meta.Accessor(copied)
	must(t, err)
	annotations := map[string]string{key: value}
	for key, value := range accessor.GetAnnotations() {
		annotations[key] = value
	}
	accessor.SetAnnotations(annotations)
	return copied
}

// template is a Pod template that nothing can run: its node does not exist.
func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "walk"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"no": "where"},
			Containers:   []corev1.Container{{Name: "c", Image: image}},
		},
	}
}

func TestEveryVerb(t *testing.T) {
	for short, contentType := range map[string]string{"json": asJSON, "prot": asProtobuf} {
		t.Run(short, func(t *testing.T) {
			clients, err := kubernetes.NewForConfig(configOf(t, contentType))
			must(t, err)
			namespaced(t, clients, namespace(t))
			clusterScoped(t, clients, short)
		})
	}
}

func namespaced(t *testing.T, clients *kubernetes.Clientset, ns string) {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "walk"}}
	once := template()
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod := sleeper("")
	pod.Spec.NodeSelector = map[string]string{"no": "where"}
	core, apps, batch := clients.CoreV1(), clients.AppsV1(), clients.BatchV1()

	walk(t, "ConfigMap", core.ConfigMaps(ns), &corev1.ConfigMap{
		Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {0, 255, 10}}})
	walk(t, "Secret", core.Secrets(ns), &corev1.Secret{StringData: map[string]string{"password": "s3cr3t"}})
	walk(t, "ServiceAccount", core.ServiceAccounts(ns), &corev1.ServiceAccount{})
	walk(t, "Pod", core.Pods(ns), pod)
	walk(t, "PodTemplate", core.PodTemplates(ns), &corev1.PodTemplate{Template: template()})
	walk(t, "LimitRange", core.LimitRanges(ns), &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypePersistentVolumeClaim, Max: corev1.ResourceList{"storage": resource.MustParse("2Gi")}}}}})
	walk(t, "ResourceQuota", core.ResourceQuotas(ns), &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"persistentvolumeclaims": resource.MustParse("50")}}})
	walk(t, "Endpoints", core.Endpoints(ns), &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}})
	walk(t, "PersistentVolumeClaim", core.PersistentVolumeClaims(ns), &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To("none"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}})
	walk(t, "ReplicationController", core.ReplicationControllers(ns), &corev1.ReplicationController{
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(0)), Template: ptr.To(template())}})
	walk(t, "Deployment", apps.Deployments(ns), &appsv1.Deployment{
		Spec: appsv1.DeploymentSpec{Paused: true, Replicas: ptr.To(int32(0)), Selector: selector, Template: template()}})
	walk(t, "ReplicaSet", apps.ReplicaSets(ns), &appsv1.ReplicaSet{
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(0)), Selector: selector, Template: template()}})
	walk(t, "StatefulSet", apps.StatefulSets(ns), &appsv1.StatefulSet{
		Spec: appsv1.StatefulSetSpec{ServiceName: "s", Replicas: ptr.To(int32(0)), Selector: selector, Template: template()}})
	walk(t, "DaemonSet", apps.DaemonSets(ns), &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template()}})
	walk(t, "ControllerRevision", apps.ControllerRevisions(ns), &appsv1.ControllerRevision{
		Revision: 1, Data: runtime.RawExtension{Raw: []byte(`{"spec":{"a":[1,2]}}`)}})
	walk(t, "Job", batch.Jobs(ns), &batchv1.Job{Spec: batchv1.JobSpec{Suspend: ptr.To(true), Template: once}})
	walk(t, "CronJob", batch.CronJobs(ns), &batchv1.CronJob{Spec: batchv1.CronJobSpec{
		Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: once}}}})
	walk(t, "HorizontalPodAutoscaler", clients.AutoscalingV2().HorizontalPodAutoscalers(ns), &autoscalingv2.HorizontalPodAutoscaler{
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3,
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "none", APIVersion: "apps/v1"}}})
	walk(t, "NetworkPolicy", clients.NetworkingV1().NetworkPolicies(ns), &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{
		PodSelector: *selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}})
	walk(t, "Ingress", clients.NetworkingV1().Ingresses(ns), &networkingv1.Ingress{Spec: networkingv1.IngressSpec{
		IngressClassName: ptr.To("none"), DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}})
	walk(t, "PodDisruptionBudget", clients.PolicyV1().PodDisruptionBudgets(ns), &policyv1.PodDisruptionBudget{
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromString("50%")),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "nobody"}}}})
	walk(t, "Lease", clients.CoordinationV1().Leases(ns), &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To("me"), LeaseDurationSeconds: ptr.To(int32(15)), RenewTime: ptr.To(metav1.NowMicro())}})
	walk(t, "EndpointSlice", clients.DiscoveryV1().EndpointSlices(ns), &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}}}})
	walk(t, "Role", clients.RbacV1().Roles(ns), &rbacv1.Role{
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}})
	walk(t, "RoleBinding", clients.RbacV1().RoleBindings(ns), &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "bob", APIGroup: rbacv1.GroupName}}})
	walk(t, "Service", serviceVerbs{core.Services(ns)}, &corev1.Service{Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}}})
}

func clusterScoped(t *testing.T, clients *kubernetes.Clientset, suffix string) {
	named := metav1.ObjectMeta{Name: "walker-" + suffix}
	walk(t, "PersistentVolume", clients.CoreV1().PersistentVolumes(), &corev1.PersistentVolume{ObjectMeta: named,
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, StorageClassName: "none",
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}}})
	walk(t, "ClusterRole", clients.RbacV1().ClusterRoles(), &rbacv1.ClusterRole{ObjectMeta: named,
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}}})
	walk(t, "ClusterRoleBinding", clients.RbacV1().ClusterRoleBindings(), &rbacv1.ClusterRoleBinding{ObjectMeta: named,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}})
	walk(t, "StorageClass", clients.StorageV1().StorageClasses(), &storagev1.StorageClass{ObjectMeta: named, Provisioner: "example.com/none"})
	walk(t, "CSIDriver", clients.StorageV1().CSIDrivers(), &storagev1.CSIDriver{ObjectMeta: named})
	walk(t, "PriorityClass", clients.SchedulingV1().PriorityClasses(), &schedulingv1.PriorityClass{ObjectMeta: named, Value: 1000})
	walk(t, "RuntimeClass", clients.NodeV1().RuntimeClasses(), &nodev1.RuntimeClass{ObjectMeta: named, Handler: "none"})
	walk(t, "IngressClass", clients.NetworkingV1().IngressClasses(), &networkingv1.IngressClass{ObjectMeta: named,
		Spec: networkingv1.IngressClassSpec{Controller: "example.com/none"}})
	walk(t, "ValidatingWebhookConfiguration", clients.AdmissionregistrationV1().ValidatingWebhookConfigurations(),
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: named})
	walk(t, "CertificateSigningRequest", clients.CertificatesV1().CertificateSigningRequests(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: named, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: signingRequest(t), SignerName: "example.com/none", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}})
	walk(t, "Node", clients.CoreV1().Nodes(), &corev1.Node{ObjectMeta: named, Spec: corev1.NodeSpec{Unschedulable: true}})
}

// serviceVerbs gives Services the one verb that their generated client leaves out.
type serviceVerbs struct{ serviceClient }

type serviceClient interface {
	Create(context.Context, *corev1.Service, metav1.CreateOptions) (*corev1.Service, error)
	Update(context.Context, *corev1.Service, metav1.UpdateOptions) (*corev1.Service, error)
	Get(context.Context, string, metav1.GetOptions) (*corev1.Service, error)
	List(context.Context, metav1.ListOptions) (*corev1.ServiceList, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*corev1.Service, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func (services serviceVerbs) DeleteCollection(ctx context.Context, _ metav1.DeleteOptions, group metav1.ListOptions) error {
	list, err := services.List(ctx, group)
	if err != nil {
		return err
	}
	for _, service := range list.Items {
		if err := services.Delete(ctx, service.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// TestBothEncodingsSayTheSame reads every kind that the cluster has objects of, as JSON and as protobuf.
func TestBothEncodingsSayTheSame(t *testing.T) {
	ns := namespace(t)
	running(t, clients(t), ns, sleeper("both"))
	plain, err := kubernetes.NewForConfig(configOf(t, asJSON))
	must(t, err)
	reads := map[string]func(*kubernetes.Clientset) (runtime.Object, error){
		"pods": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.CoreV1().Pods(ns).Get(t.Context(), "both", metav1.GetOptions{})
		},
		"services": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		},
		"clusterroles": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
		},
		"flowschemas": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{})
		},
		"endpointslices": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{})
		},
		"configmaps": func(c *kubernetes.Clientset) (runtime.Object, error) {
			return c.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		},
	}
	for what, read := range reads {
		eventually(t, what, func(context.Context) (bool, error) {
			one, err := read(plain)
			if err != nil {
				return false, err
			}
			other, err := read(clients(t))
			if err != nil {
				return false, err
			}
			if version(t, one) != version(t, other) {
				return false, nil // something was written in between
			}
			if !equality.Semantic.DeepEqual(one, other) {
				return false, fmt.Errorf("JSON: %v\nprotobuf: %v", one, other)
			}
			return true, nil
		})
	}
}

func version(t *testing.T, object runtime.Object) string {
	t.Helper()
	if list, err := meta.ListAccessor(object); err == nil {
		return list.GetResourceVersion()
	}
	accessor, err := meta.Accessor(object)
	must(t, err)
	return accessor.GetResourceVersion()
}
