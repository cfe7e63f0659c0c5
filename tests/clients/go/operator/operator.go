// Package operator is a small operator on controller-runtime, written as its guides teach: a kind of its own, a
// finalizer, a Deployment that it owns, and a status.
package operator

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

// Finalizer keeps a Site until its farewell is written.
const Finalizer = "sites.operator.example.com/farewell"

// GroupVersion is where Sites live.
var GroupVersion = schema.GroupVersion{Group: "operator.example.com", Version: "v1"}

// Site wants a number of web servers.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SiteSpec   `json:"spec"`
	Status SiteStatus `json:"status,omitempty"`
}

// SiteSpec is what is wanted.
type SiteSpec struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
}

// SiteStatus is what is there.
type SiteStatus struct {
	Ready      int32              `json:"ready"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SiteList is a list of Sites.
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Site `json:"items"`
}

// DeepCopyObject makes Sites objects.
func (site *Site) DeepCopyObject() runtime.Object {
	copied := *site
	copied.ObjectMeta = *site.ObjectMeta.DeepCopy()
	copied.Status.Conditions = append([]metav1.Condition(nil), site.Status.Conditions...)
	return &copied
}

// DeepCopyObject makes lists of Sites objects.
func (list *SiteList) DeepCopyObject() runtime.Object {
	copied := *list
	copied.ListMeta = *list.ListMeta.DeepCopy()
	copied.Items = make([]Site, 0, len(list.Items))
	for i := range list.Items {
		copied.Items = append(copied.Items, *list.Items[i].DeepCopyObject().(*Site))
	}
	return &copied
}

// AddToScheme makes Sites known to clients.
var AddToScheme = (&scheme.Builder{GroupVersion: GroupVersion}).Register(&Site{}, &SiteList{}).AddToScheme

// Reconciler makes the world as Sites say.
type Reconciler struct {
	client.Client
}

// SetupWithManager starts it with a manager.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).For(&Site{}).Owns(&appsv1.Deployment{}).Complete(r)
}

// Reconcile looks at one Site.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var site Site
	if err := r.Get(ctx, request.NamespacedName, &site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !site.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.farewell(ctx, &site)
	}
	if controllerutil.AddFinalizer(&site, Finalizer) {
		if err := r.Update(ctx, &site); err != nil {
			return ctrl.Result{}, err
		}
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: site.Name, Namespace: site.Namespace}}
	if _, err := controllerutil.CreateOrPatch(ctx, r.Client, deployment, func() error {
		return r.fill(&site, deployment)
	}); err != nil {
		return ctrl.Result{}, err
	}
	before := site.DeepCopyObject().(*Site)
	site.Status.Ready = deployment.Status.ReadyReplicas
	condition := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Waiting", ObservedGeneration: site.Generation,
		Message: fmt.Sprintf("%d of %d", site.Status.Ready, site.Spec.Replicas)}
	if site.Status.Ready == site.Spec.Replicas {
		condition.Status, condition.Reason = metav1.ConditionTrue, "AllThere"
	}
	meta.SetStatusCondition(&site.Status.Conditions, condition)
	return ctrl.Result{}, r.Status().Patch(ctx, &site, client.MergeFrom(before))
}

func (r *Reconciler) fill(site *Site, deployment *appsv1.Deployment) error {
	labels := map[string]string{"site": site.Name}
	deployment.Spec.Replicas = &site.Spec.Replicas
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	deployment.Spec.Template.Labels = labels
	none := int64(0)
	deployment.Spec.Template.Spec.TerminationGracePeriodSeconds = &none
	if len(deployment.Spec.Template.Spec.Containers) == 0 {
		deployment.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web"}}
	}
	web := &deployment.Spec.Template.Spec.Containers[0]
	web.Image, web.Command = site.Spec.Image, []string{"/hello", "--port=8080"}
	return controllerutil.SetControllerReference(site, deployment, r.Scheme())
}

// farewell writes a last word, and lets go.
func (r *Reconciler) farewell(ctx context.Context, site *Site) error {
	if !controllerutil.ContainsFinalizer(site, Finalizer) {
		return nil
	}
	word := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "farewell-" + site.Name, Namespace: site.Namespace}}
	if err := r.Create(ctx, word); client.IgnoreAlreadyExists(err) != nil {
		return err
	}
	controllerutil.RemoveFinalizer(site, Finalizer)
	return r.Update(ctx, site)
}
