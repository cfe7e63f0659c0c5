package core

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/utils/ptr"
)

// executors are the three ways in which client-go runs a command in a container.
func executors(t *testing.T, clients *kubernetes.Clientset, ns, pod string, options *corev1.PodExecOptions) map[string]remotecommand.Executor {
	t.Helper()
	target := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
	overSPDY, err := remotecommand.NewSPDYExecutor(config(t), "POST", target)
	must(t, err)
	overWebSocket, err := remotecommand.NewWebSocketExecutor(config(t), "GET", target.String())
	must(t, err)
	either, err := remotecommand.NewFallbackExecutor(overWebSocket, overSPDY, httpstream.IsUpgradeFailure)
	must(t, err)
	return map[string]remotecommand.Executor{"SPDY": overSPDY, "WebSocket": overWebSocket, "either": either}
}

// TestExec runs commands with all streams, and learns their exit codes.
func TestExec(t *testing.T) {
	ns, clients := namespace(t), clients(t)
	running(t, clients, ns, sleeper("shell"))
	command := &corev1.PodExecOptions{Container: "main", Stdin: true, Stdout: true, Stderr: true,
		Command: []string{"sh", "-c", "cat; echo aside >&2; exit 7"}}
	for way, executor := range executors(t, clients, ns, "shell", command) {
		var stdout, stderr bytes.Buffer
		text := strings.Repeat("to and fro\n", 20000)
		err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{
			Stdin: strings.NewReader(text), Stdout: &stdout, Stderr: &stderr})
		code, ok := err.(exec.CodeExitError)
		if !ok || code.Code != 7 {
			t.Fatalf("%s: got %v, want exit code 7", way, err)
		}
		want(t, way+" length", stdout.Len(), len(text))
		want(t, way+" stderr", stderr.String(), "aside\n")
	}
	terminal := &corev1.PodExecOptions{Container: "main", Stdin: true, Stdout: true, TTY: true, Command: []string{"sh", "-c", "tty && read line && echo got $line"}}
	for way, executor := range executors(t, clients, ns, "shell", terminal) {
		var stdout bytes.Buffer
		sizes := make(sizeQueue, 1)
		sizes <- remotecommand.TerminalSize{Width: 100, Height: 30}
		close(sizes)
		must(t, executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{
			Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Tty: true, TerminalSizeQueue: sizes}))
		if !strings.Contains(stdout.String(), "/dev/pts/") || !strings.Contains(stdout.String(), "got hello") {
			t.Fatalf("%s: %q", way, stdout.String())
		}
	}
}

type sizeQueue chan remotecommand.TerminalSize

func (queue sizeQueue) Next() *remotecommand.TerminalSize {
	size, open := <-queue
	if !open {
		return nil
	}
	return &size
}

// TestPortForward speaks to a Pod's web server through both tunnels.
func TestPortForward(t *testing.T) {
	ns, clients := namespace(t), clients(t)
	running(t, clients, ns, sleeper("web"))
	target := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("web").SubResource("portforward").URL()
	roundTripper, upgrader, err := spdy.RoundTripperFor(config(t))
	must(t, err)
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, "POST", target)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(target, config(t))
	must(t, err)
	for way, dialer := range map[string]httpstream.Dialer{"SPDY": overSPDY, "WebSocket": overWebSocket} {
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
		must(t, err)
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatalf("%s: %v", way, err)
		}
		ports, err := forwarder.GetPorts()
		must(t, err)
		for range 3 {
			answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
			must(t, err)
			body, err := io.ReadAll(answer.Body)
			must(t, err)
			answer.Body.Close()
			if !strings.HasPrefix(string(body), "hello v1 from web") {
				t.Fatalf("%s: %q", way, body)
			}
		}
		close(stop)
		must(t, <-done)
	}
}

// TestLogs follows a container's output until it ends, and reads the end of it afterwards.
func TestLogs(t *testing.T) {
	ns, ctx, clients := namespace(t), t.Context(), clients(t)
	pod := sleeper("talker")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers[0].ReadinessProbe = nil
	pod.Spec.Containers[0].Command = []string{"sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"}
	_, err := clients.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "the container has started", func(ctx context.Context) (bool, error) {
		pod, err := clients.CoreV1().Pods(ns).Get(ctx, "talker", metav1.GetOptions{})
		return err == nil && len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Waiting == nil, err
	})
	stream, err := clients.CoreV1().Pods(ns).GetLogs("talker", &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(ctx)
	must(t, err)
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	for i := range 5 {
		if !lines.Scan() {
			t.Fatalf("the log ends before line %d: %v", i+1, lines.Err())
		}
		stamp, rest, _ := strings.Cut(lines.Text(), " ")
		want(t, "line", rest, fmt.Sprintf("line %d", i+1))
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			t.Fatal(err)
		}
	}
	if lines.Scan() {
		t.Fatalf("after the end: %q", lines.Text())
	}
	tail, err := clients.CoreV1().Pods(ns).GetLogs("talker", &corev1.PodLogOptions{TailLines: ptr.To(int64(2))}).DoRaw(ctx)
	must(t, err)
	want(t, "tail", string(tail), "line 4\nline 5\n")
	_, err = clients.CoreV1().Pods(ns).GetLogs("talker", &corev1.PodLogOptions{Container: "nope"}).Stream(ctx)
	refused(t, err, apierrors.IsBadRequest, "container nope is not valid for pod talker")
}

// TestEviction is held up by a budget, and goes on without it.
func TestEviction(t *testing.T) {
	ns, ctx, clients := namespace(t), t.Context(), clients(t)
	running(t, clients, ns, sleeper("guarded"))
	_, err := clients.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "guard"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	evict := func() error { // what the typed client does, but it would try again ten times where it is told to wait
		return clients.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("guarded").SubResource("eviction").
			Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "guarded"}}).MaxRetries(0).Do(ctx).Error()
	}
	refused(t, evict(), apierrors.IsTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
	must(t, clients.PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "guard", metav1.DeleteOptions{}))
	must(t, evict())
	eventually(t, "the Pod is gone", func(ctx context.Context) (bool, error) {
		_, err := clients.CoreV1().Pods(ns).Get(ctx, "guarded", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// TestTokens asks for a token of a service account, uses it, and has it reviewed.
func TestTokens(t *testing.T) {
	ns, ctx, clients := namespace(t), t.Context(), clients(t)
	asked, err := clients.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(600))},
	}, metav1.CreateOptions{})
	must(t, err)
	user := "system:serviceaccount:" + ns + ":default"
	reviewed, err := clients.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: asked.Status.Token}}, metav1.CreateOptions{})
	must(t, err)
	want(t, "authenticated", reviewed.Status.Authenticated, true)
	want(t, "user", reviewed.Status.User.Username, user)

	account := rest.AnonymousClientConfig(config(t))
	account.BearerToken = asked.Status.Token
	its := clientsFor(t, account)
	self, err := its.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	want(t, "self", self.Status.UserInfo.Username, user)
	_, err = its.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	refused(t, err, apierrors.IsForbidden, `User "`+user+`" cannot list resource "secrets"`)
	may, err := its.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: ns, Verb: "list", Resource: "secrets"}}}, metav1.CreateOptions{})
	must(t, err)
	want(t, "allowed", may.Status.Allowed, false)
}

// TestEvents records what happened, and counts what happens again.
func TestEvents(t *testing.T) {
	ns, ctx, clients := namespace(t), t.Context(), clients(t)
	about, err := clients.CoreV1().ConfigMaps(ns).Create(ctx, configMap("noticed"), metav1.CreateOptions{})
	must(t, err)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: clients.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "tester"})
	for range 3 {
		recorder.Event(about, corev1.EventTypeWarning, "Noticed", "it was seen")
	}
	eventually(t, "the event is counted", func(ctx context.Context) (bool, error) {
		found, err := clients.CoreV1().Events(ns).SearchWithContext(ctx, scheme.Scheme, about)
		return err == nil && len(found.Items) == 1 && found.Items[0].Count == 3, err
	})
	selected, err := clients.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=Noticed,involvedObject.name=noticed,type=Warning"})
	must(t, err)
	want(t, "selected", len(selected.Items), 1)
	newer, err := clients.EventsV1().Events(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	want(t, "note in the newer group", newer.Items[0].Note, "it was seen")
}
