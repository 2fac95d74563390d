// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is wrapped
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Names of the health service's services.
const (
	// HealthReady is the service that says whether to send calls here.
	HealthReady = ""
	// HealthLive serves as long as the process does.
	HealthLive = "liveness"
)

const (
	// maxMessage bounds a message, in bytes. A link of a client or a member sends at
	// most 64 KiB; a full batch fits if its items have 256 bytes on average.
	maxMessage = 256 << 10
	// maxHeaders bounds the metadata of a call, in bytes as HTTP/2 counts them.
	maxHeaders = 16 << 10
	// maxStreams bounds the streams of a connection: a client waits with more, and is not
	// told why. So it is larger than how many calls an overloaded node has in progress,
	// with few processors, and smaller than the share of an address.
	maxStreams = 512
	// streamWindow is how much of a message is received before a handler reads it, and
	// connWindow how much may be on its way.
	streamWindow = 64 << 10
	connWindow   = 1 << 20
	// Connections end now and then, so that clients spread over new nodes.
	connectionAge   = 30 * time.Minute
	connectionGrace = time.Minute
)

// GRPCOptions configure [NewGRPC]. The zero value works.
type GRPCOptions struct {
	// Health is the caller's to update. Default: one that always serves.
	Health *health.Server
	// Logger gets the panics of handlers. Default: slog.Default.
	Logger *slog.Logger
	// MaxConnectionAge ends connections of that age. Default: 30 minutes.
	MaxConnectionAge time.Duration
	// MaxConnectionAgeGrace is how long their calls may go on then. Default: 1 minute.
	MaxConnectionAgeGrace time.Duration
	// Streams bounds the streams of all servers that share it. Default: one of its own.
	// Shares of addresses need a listener of package listenlimit.
	Streams *StreamLimits
	// Rejections counts what is rejected before it is a call. Nil: nothing is counted.
	Rejections *Rejections
	// Admission refuses new calls of RateLimiter. Nil: all are admitted.
	Admission *Admission
	// Access decides who may call. Nil: everybody.
	Access *auth.Authority
	// Services are served, too, and shown by reflection.
	Services []UnaryService
	// Server options such as credentials; they come last.
	Server []grpc.ServerOption
}

// A UnaryService is a public service other than RateLimiter, without streams.
type UnaryService struct {
	Desc   grpc.ServiceDesc
	Server any
	// Undecodable answers a message that cannot be decoded, for the given reason.
	// [Describe] names the field if a text is not UTF-8. Nil: that reason is the error.
	Undecodable func(error) (any, error)

	refusable []string // methods that the Admission may refuse
}

// NewGRPC returns a server with the RateLimiter service, unless svc is nil, with
// health and reflection. The caller may register more services, such as Peer,
// before it serves. Reflection shows the public ones only. Streams of all services
// end with InvalidArgument at a message that cannot be decoded, and with Internal
// at a panic; of unary calls only those of RateLimiter and of Services do. Access
// decides about the same calls.
//
// A connection is cut off a minute after its time is up, with the streams that
// are still open on it: a long stream should end itself before.
func NewGRPC(svc pb.RateLimiterServer, o GRPCOptions) *grpc.Server {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxConnectionAge == 0 {
		o.MaxConnectionAge = connectionAge
	}
	if o.MaxConnectionAgeGrace == 0 {
		o.MaxConnectionAgeGrace = connectionGrace
	}
	if o.Health == nil {
		o.Health = NewHealth(healthpb.HealthCheckResponse_SERVING)
	}
	if o.Streams == nil {
		o.Streams = NewStreamLimits(nil, nil)
	}
	guard := guard{o.Logger, o.Streams, o.Rejections, o.Admission, o.Access}
	// Windows are fixed, because grpc-go's would grow up to 16 MiB for a peer that
	// sends much. Larger ones, and larger buffers, were measured to be no better. Nor
	// are stream workers, of which each long stream would keep one.
	s := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(grpcCodec{encoding.GetCodecV2("proto")}),
		grpc.ChainStreamInterceptor(guard.stream),
		grpc.UnknownServiceHandler(guard.unknown),
		grpc.InTapHandle(guard.tap),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      o.MaxConnectionAge,
			MaxConnectionAgeGrace: o.MaxConnectionAgeGrace,
			Time:                  time.Minute,
			Timeout:               20 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             10 * time.Second,
			PermitWithoutStream: true,
		}),
	}, o.Server...)...)
	shown := public{s, []string{healthpb.Health_ServiceDesc.ServiceName, reflectionpb.ServerReflection_ServiceDesc.ServiceName}}
	if svc != nil {
		own := UnaryService{Desc: pb.RateLimiter_ServiceDesc, Server: admittedBatches{svc, o.Admission}, refusable: newMethods}
		o.Services = append([]UnaryService{own}, o.Services...)
	}
	for _, u := range o.Services {
		s.RegisterService(handling(u, guard), u.Server)
		shown.names = append(shown.names, u.Desc.ServiceName)
	}
	healthpb.RegisterHealthServer(s, o.Health)
	reflectionpb.RegisterServerReflectionServer(s, reflection.NewServerV1(reflection.ServerOptions{
		Services: shown, DescriptorResolver: newPublicFiles(shown.names), ExtensionResolver: new(protoregistry.Types),
	}))
	return s
}

// NewHealth returns a health server that is live and says ready about calls.
func NewHealth(ready healthpb.HealthCheckResponse_ServingStatus) *health.Server {
	h := health.NewServer()
	h.SetServingStatus(HealthReady, ready)
	h.SetServingStatus(HealthLive, healthpb.HealthCheckResponse_SERVING)
	return h
}

// public is the services that reflection shows.
type public struct {
	server *grpc.Server
	names  []string
}

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (p public) GetServiceInfo() map[string]grpc.ServiceInfo {
	shown := map[string]grpc.ServiceInfo{}
	for name, info := range p.server.GetServiceInfo() {
		if slices.Contains(p.names, name) {
			shown[name] = info
		}
	}
	return shown
}

// publicFiles has the files of the services that reflection shows, and what those
// import. It hides the file of the service between members.
type publicFiles struct{ protoregistry.Files }

func newPublicFiles(services []string) *publicFiles {
	public := &publicFiles{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if _, err := public.FindFileByPath(f.Path()); err == nil || f.IsPlaceholder() {
			return
		}
		_ = public.RegisterFile(f) // which is registered already in protoregistry.GlobalFiles, so it conflicts with none
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
	}
	for _, name := range services {
		if d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name)); err == nil {
			add(d.ParentFile())
		}
	}
	return public
}

// guard turns a panic into an answer, so that one call cannot end the node, and
// refuses the streams that are too many.
type guard struct {
	log        *slog.Logger
	streams    *StreamLimits
	rejections *Rejections
	admission  *Admission
	access     *auth.Authority
}

// tap counts a stream, and decides who may have it, before anything of it is read. The error,
// if any, is in the context, see [StreamLimits.tap].
func (g guard) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	return g.access.GRPC(g.streams.tap(ctx, info), info.FullMethodName, info.Header), nil
}

// check returns the error of a call or a stream that tap has found.
func (g guard) check(ctx context.Context) error {
	if err := g.streams.check(ctx); err != nil {
		return err
	}
	return g.access.Check(ctx)
}

// stream is an interceptor: streams are long, so what it costs does not matter.
func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.recover(info.FullMethod, &err)
	if err := g.check(ss.Context()); err != nil {
		return err
	}
	ctx, session := g.access.Open(ss.Context(), info.FullMethod)
	defer session.Close()
	return next(srv, newDecodingStream(ctx, session, ss, newSendQueue(ctx, g.streams), g.rejections))
}

// unknown answers calls of methods that the server does not have, as grpc-go would.
func (g guard) unknown(_ any, ss grpc.ServerStream) error {
	g.rejections.Count(GRPCInterface, UnknownPath)
	method, _ := grpc.MethodFromServerStream(ss)
	return grpcstatus.Errorf(codes.Unimplemented, "unknown method %s", text.Quote(method))
}

func (g guard) recover(method string, err *error) {
	if p := recover(); p != nil {
		g.log.Error("handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = grpcstatus.Error(codes.Internal, "internal error")
	}
}
