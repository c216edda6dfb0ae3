"""Functions that are almost a model_fn: each is `net` with one thing wrong."""

import jax.numpy as jnp
import optax
from train_process import net

import estimator as est


def without_loss(features, labels, mode):
    return est.EstimatorSpec(mode, predictions=net(features, labels, est.ModeKeys.PREDICT))


def with_loss_none(features, labels, mode):
    net(features, labels, mode)
    return est.EstimatorSpec(mode, predictions={"y": features["x"]}, train_op=optax.sgd(0.1))


def without_train_op(features, labels, mode):
    return est.EstimatorSpec(mode, loss=net(features, labels, mode).loss)


def with_a_number_for_a_metric(features, labels, mode):
    return net(features, labels, mode)._replace(eval_metric_ops={"mean": jnp.mean(labels)})


def with_a_class_for_a_train_op(features, labels, mode):
    return net(features, labels, mode)._replace(train_op=optax.adam)


def with_gradients_for_a_train_op(features, labels, mode):
    return net(features, labels, mode)._replace(train_op=jnp.zeros(3))


def with_a_rate_of_the_batch(features, labels, mode):
    return net(features, labels, mode)._replace(train_op=optax.adam(jnp.mean(features["x"])))


def with_another_optimizer(features, labels, mode):
    return net(features, labels, mode)._replace(train_op=optax.sgd(0.1, momentum=0.9))


def without_a_layer(features, labels, mode):
    loss = jnp.mean(est.layers.dense(est.layers.dense(features["x"], 10), 10) ** 2)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(0.01))


def with_a_wider_layer(features, labels, mode):
    loss = jnp.mean(est.layers.dense(features["x"], 11) ** 2)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(0.01))


def with_one_layer_more(features, labels, mode):
    spec = net(features, labels, mode)
    loss = jnp.mean(est.layers.dense(features["x"], 1, name="extra") ** 2)
    return spec._replace(loss=spec.loss + loss)


def with_an_initializer_of_the_batch(features, labels, mode):
    spec = net(features, labels, mode)
    mean = jnp.mean(features["x"], 0)
    scale = est.get_variable("scale", (4,), lambda key, shape, dtype: mean)
    return spec._replace(loss=spec.loss + jnp.sum(scale))


def returning_a_loss(features, labels, mode):
    return net(features, labels, mode).loss


def returning_a_loss_of_each_row(features, labels, mode):
    return net(features, labels, mode)._replace(loss=features["x"][:, 0])
