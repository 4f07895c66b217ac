package org.cooperllm.runtime.bundle

import org.cooperllm.runtime.zo.Layout

/** What a bundle is, as far as a device computes with it: see Manifest in bundle.proto, whose names these are. */
internal class Manifest(
    val family: String,
    val adapterKind: String,
    val precision: String,
    val task: TaskKind,
    val text: TextRules,
    val chain: ManifestChain,
    val layout: Layout,
    val files: Map<BundlePart, FileEntry>,
    val createdBy: String,
)

/** The files of a bundle beside its manifest. */
internal enum class BundlePart(
    val key: String,
) {
    PROGRAM("program"),
    ADAPTER("adapter"),
    TOKENIZER("tokenizer"),
}

/** A file: its name in the bundle's folder, its size, and its SHA-256 in hex. */
internal class FileEntry(
    val name: String,
    val sizeBytes: Long,
    val sha256: String,
)

/** What the head answers. [kind] is "sequence_classification", "label_words" or "causal_lm". */
internal class TaskKind(
    val kind: String,
    val pooling: String,
    val classNames: List<String>,
    val poolingOffsetTokens: Int,
    val labelWords: List<String>,
    val labelWordIds: IntArray,
)

/**
 * How a text becomes tokens.
 *
 * With a [template], an example's tokens are prefixIds, those of textLead + text without special tokens, suffixIds, and
 * in causal_lm those of responseLead + response, endIds. Only text and response are truncated.
 */
internal class TextRules(
    val maxTokens: Int,
    val truncatesLeft: Boolean,
    val padsLeft: Boolean,
    val padId: Int,
    val padToMultipleTokens: Int,
    val template: String,
    val textLead: String,
    val prefixIds: IntArray,
    val suffixIds: IntArray,
    val responseLead: String,
    val endIds: IntArray,
)

/** The program's methods and sizes. [segments] is K, without embed and head. */
internal class ManifestChain(
    val segments: Int,
    val batchExamples: Int,
    val hasDynamicTokens: Boolean,
    val hiddenSize: Int,
    val methods: List<MethodEntry>,
    val headTokens: Int,
    val vocabulary: Int,
)

/** One method of the program: memory that ExecuTorch plans for it, constants it reads, and its work. */
internal class MethodEntry(
    val name: String,
    val plannedBytes: Long,
    val constantBytes: Long,
    val flops: Long,
    val blocks: Int,
)
