package org.cooperllm.runtime.bundle

import org.cooperllm.runtime.BundleError
import org.cooperllm.runtime.BundleVersionError
import org.cooperllm.runtime.LayoutMismatch
import org.cooperllm.runtime.bundle.JsonFields.Companion.AGAIN
import org.cooperllm.runtime.zo.Layout
import org.cooperllm.runtime.zo.LayoutTensor

/**
 * Reads manifest.json, which may come from anybody.
 *
 * Raises BundleError when it is no manifest or one that makes no sense, BundleVersionError when it is of a format that
 * this release does not read, LayoutMismatch when its layout is not the one that it hashes. [where] begins messages.
 */
internal class ManifestReader(
    private val where: String,
) {
    fun read(bytes: ByteArray): Manifest {
        val fields = JsonFields.parse(bytes, where)
        // Before anything else is read: another version may have other fields.
        checkVersion(fields)
        fields.only(
            "format_version",
            "source",
            "family",
            "adapter",
            "task",
            "precision",
            "text",
            "layout",
            "chain",
            "files",
            "created_by",
            "fidelity",
        )
        fields.message("source").only("model", "revision", "weights_sha256", "config_json")
        val chain = chainOf(fields.message("chain"))
        val task = taskOf(fields.message("task"))
        require(fields.text("precision") in PRECISIONS) { "names no precision that there is" }
        checkFidelity(fields.message("fidelity"))
        require(chain.headTokens > 0 == chain.vocabulary > 0) { "has a head over tokens without a vocabulary" }
        require(chain.headTokens > 0 || task.classNames.size >= 2) { "names fewer than two classes" }
        return Manifest(
            family = fields.text("family"),
            adapterKind = adapterKindOf(fields.message("adapter")),
            precision = fields.text("precision"),
            task = task,
            text = textOf(fields.message("text")),
            chain = chain,
            layout = layoutOf(fields.message("layout"), chain.segments),
            files = filesOf(fields.message("files")),
            createdBy = fields.text("created_by"),
        )
    }

    private fun checkVersion(fields: JsonFields) {
        val version =
            try {
                fields.int("format_version")
            } catch (_: BundleError) {
                -1
            }
        if (version != FORMAT_VERSION) {
            throw BundleVersionError(
                "$where: this bundle has another format version, this release reads $FORMAT_VERSION; update the app",
            )
        }
    }

    private fun chainOf(fields: JsonFields): ManifestChain {
        fields.only(
            "segments",
            "batch_examples",
            "dynamic_tokens",
            "hidden_size",
            "methods",
            "head_tokens",
            "vocabulary",
        )
        val chain =
            ManifestChain(
                segments = fields.int("segments"),
                batchExamples = fields.int("batch_examples"),
                hasDynamicTokens = fields.flag("dynamic_tokens"),
                hiddenSize = fields.int("hidden_size"),
                methods = fields.messages("methods").map(::methodOf),
                headTokens = fields.int("head_tokens"),
                vocabulary = fields.int("vocabulary"),
            )
        require(chain.segments >= 1 && chain.batchExamples >= 1 && chain.hiddenSize >= 1) {
            "has a chain without segments, batch or hidden size"
        }
        return chain
    }

    private fun methodOf(fields: JsonFields): MethodEntry {
        fields.only(
            "name",
            "delegates",
            "undelegated_operators",
            "planned_bytes",
            "flops",
            "constant_bytes",
            "blocks",
        )
        return MethodEntry(
            name = fields.text("name"),
            plannedBytes = fields.long("planned_bytes"),
            constantBytes = fields.long("constant_bytes"),
            flops = fields.long("flops"),
            blocks = fields.int("blocks"),
        )
    }

    private fun taskOf(fields: JsonFields): TaskKind {
        fields.only(
            "kind",
            "pooling",
            "class_names",
            "pooling_offset_tokens",
            "label_words",
            "label_word_ids",
        )
        return TaskKind(
            kind = fields.text("kind"),
            pooling = fields.text("pooling"),
            classNames = fields.texts("class_names"),
            poolingOffsetTokens = fields.int("pooling_offset_tokens"),
            labelWords = fields.texts("label_words"),
            labelWordIds = fields.ints("label_word_ids"),
        )
    }

    private fun textOf(fields: JsonFields): TextRules {
        fields.only(
            "max_tokens",
            "truncation_side",
            "padding_side",
            "pad_id",
            "pad_to_multiple_tokens",
            "template",
            "text_lead",
            "prefix_ids",
            "suffix_ids",
            "response_lead",
            "end_ids",
        )
        val rules =
            TextRules(
                maxTokens = fields.int("max_tokens"),
                truncatesLeft = isLeft(fields.text("truncation_side")),
                padsLeft = isLeft(fields.text("padding_side")),
                padId = fields.int("pad_id"),
                padToMultipleTokens = fields.int("pad_to_multiple_tokens"),
                template = fields.text("template"),
                textLead = fields.text("text_lead"),
                prefixIds = fields.ints("prefix_ids"),
                suffixIds = fields.ints("suffix_ids"),
                responseLead = fields.text("response_lead"),
                endIds = fields.ints("end_ids"),
            )
        require(rules.padToMultipleTokens in 1..rules.maxTokens) { "has text rules that make no sense" }
        require(rules.prefixIds.size + rules.suffixIds.size + rules.endIds.size < rules.maxTokens) {
            "has a template that leaves no room for text"
        }
        return rules
    }

    private fun isLeft(side: String): Boolean {
        require(side == "left" || side == "right") { "has text rules that make no sense" }
        return side == "left"
    }

    private fun adapterKindOf(fields: JsonFields): String {
        fields.only(
            "kind",
            "r",
            "lora_alpha",
            "target_modules",
            "bottleneck_size",
            "prefix_tokens",
            "seed",
            "frozen",
        )
        for (frozen in fields.messages("frozen")) {
            val shape = frozen.only("name", "shape").ints("shape")
            val count = shape.fold(1L) { product, size -> product * size }
            require(shape.size == 2 && count in 1..Int.MAX_VALUE) { "has frozen factors without a shape" }
        }
        return fields.text("kind")
    }

    private fun checkFidelity(fields: JsonFields) {
        fields.only("directions", "examples", "epsilon", "points")
        val epsilons = mutableListOf<Double>()
        for (point in fields.messages("points")) {
            point.only("epsilon", "initial_correlation", "moved_correlation")
            val epsilon = point.double("epsilon")
            val correlations = listOf(point.double("initial_correlation"), point.double("moved_correlation"))
            require(epsilon > 0.0 && epsilon.isFinite() && correlations.all { it in -1.0..1.0 }) { BAD_FIDELITY }
            epsilons += epsilon
        }
        require(epsilons.isEmpty() || fields.double("epsilon") in epsilons) { BAD_FIDELITY }
    }

    private fun layoutOf(
        fields: JsonFields,
        segments: Int,
    ): Layout {
        fields.only("parameters", "sha256", "tensors")
        val tensors =
            fields.messages("tensors").map {
                it.only("name", "segment", "shape", "offset", "grid_exponent")
                val shape = it.ints("shape")
                LayoutTensor(it.text("name"), it.int("segment"), shape, it.int("offset"), it.signedInt("grid_exponent"))
            }
        val layout = Layout(tensors)
        if (layout.sha256() != fields.text("sha256") || layout.parameters != fields.int("parameters")) {
            throw LayoutMismatch("$where: its layout is not the one whose SHA-256 and size it gives; $AGAIN")
        }
        if (tensors.any { it.segment > segments }) {
            throw LayoutMismatch("$where: its layout has segments that its chain has not; $AGAIN")
        }
        return layout
    }

    private fun filesOf(fields: JsonFields): Map<BundlePart, FileEntry> =
        BundlePart.entries.associateWith { part ->
            val entry = fields.message(part.key).only("name", "size_bytes", "sha256")
            val name = entry.text("name")
            // A name with a folder in it could point outside the bundle.
            val isPlain = name.isNotEmpty() && name != "." && name != ".." && name.none { it in "/\\\u0000" }
            require(isPlain && name != Bundle.MANIFEST_NAME) { "names no usable file for its ${part.key}" }
            FileEntry(name, entry.long("size_bytes"), entry.text("sha256"))
        }

    private inline fun require(
        condition: Boolean,
        fault: () -> String,
    ) {
        if (!condition) throw BundleError("$where: ${fault()}; $AGAIN")
    }

    private companion object {
        const val FORMAT_VERSION = 1
        const val BAD_FIDELITY = "has a fidelity that makes no sense"
        val PRECISIONS = setOf("fp32", "int8", "int4") // of the frozen weights
    }
}
